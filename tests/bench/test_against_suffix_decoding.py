"""The comparison with arctic-inference: what is asked of its worker and of ours. Installs nothing: that is slow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.against_suffix_decoding import DEFAULTS, ours, theirs
from bench.installation import PeerUnavailableError
from bench.recorded_answers import Answer

RECORDED = {
    "repeated": [
        Answer(index=i, prompt=(i + 100, 1, 2), tokens=(5, 6, 7, 8, 9, 10, 11, 12), is_judged=i == 2) for i in range(3)
    ],
}

# Stands in for the library: drafts what the first answer was, as far as it is asked.
LIBRARY = """
class Draft:
    def __init__(self, token_ids):
        self.token_ids = token_ids

class SuffixDecodingCache:
    def __init__(self, max_tree_depth):
        self.max_tree_depth = max_tree_depth
        self.running = {}
        self.first = []

    def start_request(self, request, prompt):
        self.running[request] = 0

    def add_active_response(self, request, token_ids):
        if request == 0:
            self.first += token_ids
        self.running[request] += len(token_ids)

    def speculate(self, request, context, max_spec_tokens, max_spec_factor, min_token_prob):
        assert len(context) <= self.max_tree_depth and context[-1] == self.first[self.running[request] - 1]
        at = self.running[request]
        return Draft(self.first[at : at + int(max_spec_tokens * max_spec_factor)])

    def stop_request(self, request):
        del self.running[request]
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "arctic_inference" / "suffix_decoding"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text(LIBRARY)
    start = tmp_path / "python"
    start.write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{tmp_path} exec {sys.executable} "$@"\n')
    start.chmod(0o755)
    return start


def test_their_worker_replays_every_setting_on_every_stream(library: Path) -> None:
    """The whole answer in one step with room for it; half of what is asked for gives 3 + 1 and then 1 + 1, 1."""
    settings = [DEFAULTS, {**DEFAULTS, "max_spec_factor": 0.5}]
    whole, half = theirs(library, {**RECORDED, "again": RECORDED["repeated"]}, settings, cap=16, batch=1)
    assert [(counted.tokens, counted.steps, counted.drafted) for counted in whole] == [(7, 1, 6)] * 2
    assert [(counted.tokens, counted.steps, counted.drafted) for counted in half] == [(7, 3, 4)] * 2


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    """Without the library: its last line."""
    with pytest.raises(PeerUnavailableError, match=r"suffix_decoding: the worker exits 1: .*arctic_inference"):
        theirs(Path(sys.executable), RECORDED, [DEFAULTS], cap=16, batch=1)


def test_our_look_up_learns_from_the_answers_before() -> None:
    """Suffix knows the answer, n-gram knows its own prompt only; both are counted over the same tokens."""
    found = ours(RECORDED, cap=16, batch=1)
    assert [found[name][0].tokens for name in ("n-gram", "suffix")] == [7, 7]
    assert found["n-gram"][0].acceptance_length == 1.0
    assert found["suffix"][0].acceptance_length > 3.0
