"""Recorded answers replayed through one predictor whose whole draft is verified: tokens per step, and nothing else.

Decides the order of arrival and what counts: `batch` requests at a time, the first token of each from the prompt's last
row, drafts of at most `cap` tokens, none of them in place of an answer's last. Refuses to know windows and step times,
so that predictors are compared and not what is made of them. Imports the standard library only: peers run it in
environments of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Recorded(Protocol):
    """One answer as it was recorded (bench.recorded_answers.Answer)."""

    @property
    def index(self) -> int: ...
    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def is_judged(self) -> bool: ...


class Predictor(Protocol):
    """Told of every request and of every token that is emitted; asked before each step."""

    def begin(self, request_id: int, prompt: Sequence[int]) -> None: ...
    def propose(self, request_id: int, text: Sequence[int], most: int) -> Sequence[int]: ...
    def emitted(self, request_id: int, text: Sequence[int], num_new: int) -> None: ...
    def end(self, request_id: int) -> None: ...


@dataclass(slots=True, kw_only=True)
class Counted:
    """Of judged requests. `seconds`: of processor time in the predictor, learning included."""

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    seconds: float = 0.0

    @property
    def acceptance_length(self) -> float:
        return self.tokens / self.steps


@dataclass(slots=True, kw_only=True)
class _Running:
    answer: Recorded
    text: list[int]

    @property
    def left(self) -> Sequence[int]:
        return self.answer.tokens[len(self.text) - len(self.answer.prompt) :]


def replay(answers: Iterable[Recorded], predictor: Predictor, *, cap: int, batch: int) -> Counted:
    """All answers through one predictor. Raises ValueError for a cap or a batch that isn't positive."""
    if cap < 1 or batch < 1:
        raise ValueError(f"cap is {cap} and batch {batch}, the least is 1")
    counted = Counted()
    waiting = iter([answer for answer in answers if len(answer.tokens) >= 2])
    running: list[_Running] = []
    while True:
        while len(running) < batch and (answer := next(waiting, None)) is not None:
            running.append(_begun(answer, predictor))
        if not running:
            return counted
        for entry in running:
            _step(entry, predictor, cap=cap, counted=counted)
        for entry in [entry for entry in running if not entry.left]:
            running.remove(entry)
            predictor.end(entry.answer.index)


def _begun(answer: Recorded, predictor: Predictor) -> _Running:
    predictor.begin(answer.index, answer.prompt)
    entry = _Running(answer=answer, text=[*answer.prompt, answer.tokens[0]])
    predictor.emitted(answer.index, entry.text, 1)
    return entry


def _step(entry: _Running, predictor: Predictor, *, cap: int, counted: Counted) -> None:
    begin = time.process_time()
    left = entry.left
    most = min(cap, len(left) - 1)
    draft = predictor.propose(entry.answer.index, entry.text, most) if most > 0 else ()
    matched = 0
    while matched < len(draft) and draft[matched] == left[matched]:
        matched += 1
    entry.text.extend(left[: matched + 1])
    predictor.emitted(entry.answer.index, entry.text, matched + 1)
    if entry.answer.is_judged:
        counted.tokens += matched + 1
        counted.steps += 1
        counted.drafted += len(draft)
        counted.seconds += time.process_time() - begin
