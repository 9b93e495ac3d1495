"""What look-up keeps of a sequence that runs takes no more memory than is planned for."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from allocated import allocated_bytes
from bowsprit_engine.speculation.drafters import ngram, suffix, suffix_in_cpp, suffix_in_python
from bowsprit_engine.speculation.drafters.base import DraftContext, Drafter
from bowsprit_engine.speculation.drafters.suffix_in_cpp import SuffixInCpp
from bowsprit_engine.speculation.drafters.suffix_in_python import SuffixInPython

NUM_SEQUENCES = 8
IN_PYTHON = {
    "NGram": (lambda: ngram.NGramDrafter(name="n"), ngram.BYTES_PER_LIVE_TOKEN),
    "Suffix": (
        lambda: suffix.SuffixDrafter(name="s", look_up=SuffixInPython, kept_tokens=1),
        suffix_in_python.BYTES_PER_LIVE_TOKEN,
    ),
}


def drafted_for(drafter: Drafter, num_tokens: int) -> None:
    """Sequences of tokens that hardly repeat, which are the most expensive: a prompt, and eight short answers."""
    chance = np.random.default_rng(0)
    for number in range(NUM_SEQUENCES):
        tokens = chance.integers(49_152, size=num_tokens).tolist()
        for length in (num_tokens - 8, num_tokens):
            context = DraftContext(
                request_id=f"r{number}",
                token_ids=tokens[:length],
                hidden=None,
                max_draft_tokens=4,
                seed=0,
                temperature=0.0,
                num_prompt_tokens=num_tokens - 9,
            )
            drafter.propose([context])


@pytest.mark.parametrize("num_tokens", [1_100, 2_200, 4_000])  # just after tables have grown, and when they are full
def test_a_running_sequence_takes_no_more_than_is_planned_in_cpp(num_tokens: int) -> None:
    """Per token of its prompt and its answer."""
    drafted_for(suffix.SuffixDrafter(name="warm", look_up=SuffixInCpp, kept_tokens=1), 10)  # what a first call loads
    drafter = suffix.SuffixDrafter(name="s", look_up=SuffixInCpp, kept_tokens=1)
    gc.collect()  # what other tests left must not be freed meanwhile
    before = allocated_bytes()
    drafted_for(drafter, num_tokens)
    per_token = (allocated_bytes() - before) / (NUM_SEQUENCES * num_tokens)
    planned = suffix_in_cpp.BYTES_PER_LIVE_TOKEN
    assert 0.4 * planned < per_token < planned


@pytest.mark.parametrize("kind", list(IN_PYTHON))
def test_a_running_sequence_takes_no_more_than_is_planned_in_python(kind: str) -> None:
    """Ten times as much."""
    make: Callable[[], Drafter]
    make, planned = IN_PYTHON[kind]
    drafter = make()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        drafted_for(drafter, 2_000)
        per_token = (tracemalloc.get_traced_memory()[0] - before) / (NUM_SEQUENCES * 2_000)
    finally:
        tracemalloc.stop()
    assert 0.5 * planned < per_token < planned
