"""Pure decode steps of engines that one thread steps: what each emitted, took, and spent on which of its parts.

Decides what the parts of a step are: the functions that `Stepper.step` calls, in the engine's thread, by the clock of
that thread's processor time, which other work on the machine disturbs least. It listens where the engine itself counts
a step, so steps with prompts among their rows are left out. Engines are told apart by their boot id. Refuses to know
why anybody drafts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from bowsprit_engine.core import batch, step
from bowsprit_engine.core.commit import Committer
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.open_sequences import OpenSequences
from bowsprit_engine.core.sampling import Sampler
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.step_account import StepAccount
from bowsprit_engine.core.step_drafts import StepDrafter
from bowsprit_engine.speculation.costs import CellKey

PARTS: Mapping[str, tuple[Any, str]] = {
    "schedule": (Scheduler, "schedule"),
    "draft": (StepDrafter, "draft"),  # caps, look-up, windows
    "build": (batch, "build"),
    "forward": (step, "timed_forward"),
    "draw": (Sampler, "draw"),
    "commit": (Committer, "commit_all"),
    "count": (StepAccount, "count"),
    "learn": (StepAccount, "learn"),  # scoring drafts, teaching drafters
    "stream": (OpenSequences, "stream"),
}
DRAFTING = ("draft", "learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`batch`: its bucket. `seconds` are of the clock on the wall, `cpu_seconds` of all threads' processor time.

    `part_seconds`: processor time of the engine's thread within each part, and `thread_seconds` of the whole step.
    """

    batch: int
    rows: int
    tokens: int
    seconds: float
    cpu_seconds: float
    thread_seconds: float
    part_seconds: Mapping[str, float]
    is_contended: bool

    @property
    def drafting_seconds(self) -> float:
        return sum(self.part_seconds.get(part, 0.0) for part in DRAFTING)


class StepClock:
    """Listens while it is entered."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Step]] = {}
        self._parts: dict[str, float] = {}  # of the step under way
        self._cpu_begin = 0.0
        self._thread_begin = 0.0

    def take(self, boot_id: str) -> list[Step]:
        """The steps of one engine since they were last taken."""
        return self._steps.pop(boot_id, [])

    @contextmanager
    def listening(self) -> Iterator[StepClock]:
        with ExitStack() as patches:
            for part, (owner, name) in PARTS.items():
                patches.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            patches.enter_context(mock.patch.object(step.Stepper, "step", self._begun(step.Stepper.step)))
            patches.enter_context(mock.patch.object(Counters, "add_step", self._heard(Counters.add_step)))
            yield self

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._parts[part] = self._parts.get(part, 0.0) + time.thread_time() - begin

        return timed

    def _begun(self, function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def begun(stepper: step.Stepper) -> None:
            self._parts = {}
            self._cpu_begin, self._thread_begin = time.process_time(), time.thread_time()
            function(stepper)

        return begun

    def _heard(self, function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def heard(counters: Counters, key: CellKey, *, seconds: float, tokens: int, is_contended: bool) -> None:
            function(counters, key, seconds=seconds, tokens=tokens, is_contended=is_contended)
            taken = Step(
                batch=key.batch,
                rows=key.rows,
                tokens=tokens,
                seconds=seconds,
                cpu_seconds=time.process_time() - self._cpu_begin,
                thread_seconds=time.thread_time() - self._thread_begin,
                part_seconds=self._parts,
                is_contended=is_contended,
            )
            self._steps.setdefault(counters.boot_id, []).append(taken)

        return heard
