"""Pure decode steps of running engines, one by one: what each emitted, took, and spent on drafting.

Decides what counts as drafting: processor time of the engine's thread within the pool, the windows and the policy,
learning from what was emitted included. It listens where the engine itself counts a step, so steps with prompts among
their rows are left out. Engines are told apart by their boot id. Refuses to know why anybody drafts.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from bowsprit_engine.core import step
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.speculation.costs import CellKey
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool

DRAFTING: tuple[tuple[Any, str], ...] = (
    *((DrafterPool, name) for name in ("draft", "learn", "forget", "note_step")),
    *((PolicyExecutor, name) for name in ("caps", "curve", "observe", "observe_watched")),
    (step, "windows"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`batch`: its bucket. `seconds` are of the clock on the wall, the others of the processor."""

    batch: int
    tokens: int
    seconds: float
    cpu_seconds: float
    drafting_seconds: float
    is_contended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Of the steps of one batch bucket. `contended_share`: of steps whose cores others had part of, all the same in."""

    num_steps: int
    contended_share: float
    tokens_per_second: float
    tokens_per_cpu_second: float
    seconds: float  # of a step
    drafting_seconds: float  # of a step


class StepClock:
    """Listens while it is entered. Steps are added by engines' threads, one engine at a time."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Step]] = {}
        self._drafting = 0.0  # seconds since the last step ended
        self._cpu_begin = 0.0  # the process's processor time when the step began
        self._stepping = threading.Lock()  # a step is counted after its clients were told

    def take(self, boot_id: str) -> list[Step]:
        """The steps of one engine since they were last taken."""
        with self._stepping:
            return self._steps.pop(boot_id, [])

    @contextmanager
    def listening(self) -> Iterator[StepClock]:
        with ExitStack() as patches:
            for owner, name in DRAFTING:
                patches.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name))))
            patches.enter_context(mock.patch.object(step.Stepper, "step", self._begun(step.Stepper.step)))
            patches.enter_context(mock.patch.object(Counters, "add_step", self._heard(Counters.add_step)))
            yield self

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._drafting += time.thread_time() - begin

        return timed

    def _begun(self, function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def begun(stepper: step.Stepper) -> None:
            with self._stepping:
                self._drafting = 0.0
                self._cpu_begin = time.process_time()
                function(stepper)

        return begun

    def _heard(self, function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def heard(counters: Counters, key: CellKey, *, seconds: float, tokens: int, is_contended: bool) -> None:
            function(counters, key, seconds=seconds, tokens=tokens, is_contended=is_contended)
            taken = Step(
                batch=key.batch,
                tokens=tokens,
                seconds=seconds,
                cpu_seconds=time.process_time() - self._cpu_begin,
                drafting_seconds=self._drafting,
                is_contended=is_contended,
            )
            self._steps.setdefault(counters.boot_id, []).append(taken)

        return heard


def pace(steps: Sequence[Step], *, batch: int) -> Pace:
    """Raises ValueError without a step of this batch bucket."""
    of_batch = [one for one in steps if one.batch == batch]
    if not of_batch:
        raise ValueError(f"{len(steps)} steps, none of batch {batch}")
    seconds, tokens = sum(one.seconds for one in of_batch), sum(one.tokens for one in of_batch)
    return Pace(
        num_steps=len(of_batch),
        contended_share=sum(one.is_contended for one in of_batch) / len(of_batch),
        tokens_per_second=tokens / seconds,
        tokens_per_cpu_second=tokens / sum(one.cpu_seconds for one in of_batch),
        seconds=seconds / len(of_batch),
        drafting_seconds=sum(one.drafting_seconds for one in of_batch) / len(of_batch),
    )
