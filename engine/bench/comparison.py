"""One run of the comparison: engines up, every case round by round, engines down.

In a round every participant answers the same prompts, one after another, and who begins moves on by one each round. A
participant that fails in a case is left out of the rest and named; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench import plan, window
from bench.plan import Case
from bench.prompts import Prompt
from bench.protocol import Answer, Task, WorkerError
from bowsprit_engine.speculation.verify import num_leading_equal

TASK_SECONDS = 900.0

Progress = Callable[[str], None]
Series = dict[str, dict[str, list[float]]]


class Worker(Protocol):
    """What `WorkerProcess` is to this module."""

    def ask(self, task: Task, *, timeout_seconds: float) -> Answer:
        """Raises WorkerError."""


@dataclass(slots=True, kw_only=True)
class Found:
    """Filled round by round; see `report.Measurements` for what the series hold."""

    samples: Series = field(default_factory=dict)
    tokens_per_step: Series = field(default_factory=dict)
    leading_equal: Series = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Comparison:
    """The workers of a run, by participant. One that fails is dropped: its samples are void, its reason stays."""

    def __init__(self, workers: Mapping[str, Worker], *, progress: Progress) -> None:
        self._workers = dict(workers)
        self._progress = progress
        self.found = Found()

    def run(self, case: Case, prompts: Sequence[Sequence[Prompt]]) -> None:
        """`prompts`: one batch for the warm-up, then one for each round."""
        begin = time.monotonic()
        for round_number, batch in enumerate(prompts):
            answers = self._round(case, batch, begin_with=round_number)
            if round_number > 0:
                self._keep(case, answers)
        taken = time.monotonic() - begin
        self._progress(f"{case.title}: {len(prompts) - 1} rounds in {taken:.0f} s")

    def _round(self, case: Case, batch: Sequence[Prompt], *, begin_with: int) -> dict[str, Answer]:
        task = Task(
            prompts=tuple(batch),
            max_tokens=case.max_tokens,
            temperature=case.temperature,
            ignore_eos=case.stream != "code",
        )
        names = [name for name in case.participants if name in self._workers]
        first = begin_with % max(1, len(names))
        answers = {}
        for name in names[first:] + names[:first]:
            try:
                answers[name] = self._workers[name].ask(task, timeout_seconds=TASK_SECONDS)
            except WorkerError as error:
                self._drop(name, case, str(error))
        return answers

    def _drop(self, name: str, case: Case, why: str) -> None:
        del self._workers[name]
        self.found.samples.get(case.name, {}).pop(name, None)
        self.found.skipped[name] = f"failed in {case.name}: {why}"
        self._progress(f"{name} is left out from here on: {self.found.skipped[name]}")

    def _keep(self, case: Case, answers: Mapping[str, Answer]) -> None:
        """A round in which someone has no window counts for nobody: samples are paired by round."""
        rates = {}
        for name, answer in answers.items():
            try:
                rates[name] = rate(case, answer)
            except ValueError as error:
                self._progress(f"{case.name}: a round is left out, {name}: {error}")
                return
        for name, answer in answers.items():
            _append(self.found.samples, case, name, rates[name])
            per_step = window.tokens_per_step(answer)
            if per_step is not None:
                _append(self.found.tokens_per_step, case, name, per_step)
            if case.temperature == 0 and plan.OURS in answers and name != plan.OURS:
                _append(self.found.leading_equal, case, name, _same_start(answers[plan.OURS], answer))


def _append(series: Series, case: Case, name: str, value: float) -> None:
    series.setdefault(case.name, {}).setdefault(name, []).append(value)


def rate(case: Case, answer: Answer) -> float:
    """Tokens per second of what the case is about. Raises ValueError for an answer without a decode window."""
    if case.figure == "prefill":
        return case.batch * case.prompt_tokens / window.prefill_seconds(answer)
    return window.decoding(answer).tokens_per_second


def _same_start(ours: Answer, theirs: Answer) -> float:
    pairs = list(zip(ours.token_ids, theirs.token_ids, strict=True))
    return sum(num_leading_equal(one, other) for one, other in pairs) / len(pairs)
