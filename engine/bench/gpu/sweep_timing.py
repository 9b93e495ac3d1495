"""A candidate's constants put in force, its result compared, its time taken: one line for each, whatever happens.

Decides what a failed candidate costs: a line of its own; and its process, if the device's context is lost with it. The
process that comes next finds the line and goes on behind it. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from bench.gpu.checks import ROUNDING
from bench.gpu.device_time import seconds_of
from bench.gpu.sweep_records import Failed, Lines, Record, Timed

REASON_CHARACTERS = 300


@contextmanager
def overridden(module: ModuleType, **constants: object) -> Iterator[None]:
    """The module with these attributes; as it was afterwards. Raises AttributeError for one that it hasn't."""
    before = {name: getattr(module, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


class Stopwatch:
    """Times candidates into `lines`, those that have none yet."""

    def __init__(self, lines: Lines, *, device: torch.device, repeats: int) -> None:
        self.device, self._repeats, self._lines = device, repeats, lines
        self._done = {
            (record.case, record.candidate) for record in lines.records if isinstance(record, (Timed, Failed))
        }

    def time(
        self,
        work: Callable[[], object],
        *,
        case: str,
        candidate: str,
        passes: int = 1,
        result: Callable[[], Tensor] | None = None,
        expected: Tensor | None = None,  # of result, up to rounding
        take: Callable[..., float] = seconds_of,  # how the time of work is taken
    ) -> None:
        """A line: of a launch's seconds if `work` makes `passes` of them, or why there are none.

        Raises what the device raises when the candidate has cost its context.
        """

        def timed() -> Iterator[Timed]:
            if result is not None and expected is not None:
                _compare(result(), expected)
            seconds = take(work, device=self.device, repeats=self._repeats) / passes
            yield Timed(case=case, candidate=candidate, seconds=seconds)

        self.attempt(timed, case=case, candidate=candidate)

    def attempt(self, work: Callable[[], Iterable[Record]], *, case: str, candidate: str) -> None:
        """What `work` finds, line by line, and why it ended if it raised. Raises as `time` does."""
        if (case, candidate) in self._done:
            return
        self._done.add((case, candidate))
        try:
            for record in work():
                self._lines.add(record)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARACTERS]
            self._lines.add(Failed(case=case, candidate=candidate, reason=reason))
            if self.device.type == "cuda":
                torch.cuda.synchronize()


def _compare(actual: Tensor, expected: Tensor) -> None:
    limit = ROUNDING[expected.dtype]
    error = float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())
    if not error <= limit:  # NaN is not
        raise ArithmeticError(f"the result is off by {error:.2g} of the largest value, {limit:.2g} are allowed")
