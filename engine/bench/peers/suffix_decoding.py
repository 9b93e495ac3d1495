"""arctic-inference's suffix decoding on recorded answers: its own trees and scoring, chains as vLLM asks for them.

Reads one JSON object per line (`answers`, `cap`, `batch`, and the arguments of its cache and of its `speculate`),
writes one per line: what `bench.fixed_cap_replay` counted. Imports nothing of this project but that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arctic_inference.suffix_decoding import SuffixDecodingCache

from bench.fixed_cap_replay import replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    index: int
    prompt: Sequence[int]
    tokens: Sequence[int]
    is_judged: bool


class SuffixDecoding:
    """Its cache as its own vLLM plugin uses it: the prompt into a tree of the request, emitted tokens into both."""

    def __init__(self, *, max_tree_depth: int, **arguments: float) -> None:
        self._cache = SuffixDecodingCache(max_tree_depth=max_tree_depth)
        self._arguments = arguments

    def begin(self, request_id: int, prompt: Sequence[int]) -> None:
        self._cache.start_request(request_id, list(prompt))

    def propose(self, request_id: int, text: Sequence[int], most: int) -> Sequence[int]:
        context = list(text[-self._cache.max_tree_depth :])
        draft = self._cache.speculate(request_id, context, max_spec_tokens=most, **self._arguments)
        return list(draft.token_ids)

    def emitted(self, request_id: int, text: Sequence[int], num_new: int) -> None:
        self._cache.add_active_response(request_id, list(text[-num_new:]))

    def end(self, request_id: int) -> None:
        self._cache.stop_request(request_id)


def answer_of(task: dict[str, Any]) -> dict[str, Any]:
    answers = [Answer(**row) for row in task["answers"]]
    return asdict(replay(answers, SuffixDecoding(**task["arguments"]), cap=task["cap"], batch=task["batch"]))


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer_of(json.loads(line))), flush=True)
