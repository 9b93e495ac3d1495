"""What the rounds of a benchmark say of each mode: medians, and the ratio to plain decoding with its spread.

Pure. Ratios are taken within a round, in which the modes run one right after the other, so that a machine that slows
down for a minute slows both down.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLAIN = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One mode in one round at one batch size.

    `tokens_per_second`: of all requests, prompts included in the time. `acceptance_length`: tokens per sequence-step.
    `drafted`: draft tokens per sequence-step. `step_seconds`: between two steps of a stream.
    """

    tokens_per_second: float
    acceptance_length: float
    drafted: float
    step_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A mode's medians over the rounds, and its tokens per second over plain's: median, least and most.

    `ratio` is None where plain didn't run. `num_equal` of `num_answers` are plain's token for token.
    """

    mode: str
    batch_size: int
    sample: Sample
    ratio: tuple[float, float, float] | None
    num_equal: int | None
    num_answers: int


def order_of(modes: Sequence[str], round_number: int) -> list[str]:
    """The modes of a round, each first in turn: who comes first finds other caches and clocks."""
    shift = round_number % len(modes)
    return [*modes[shift:], *modes[:shift]]


def median(samples: Sequence[Sample]) -> Sample:
    """Field by field."""
    return Sample(
        tokens_per_second=statistics.median(sample.tokens_per_second for sample in samples),
        acceptance_length=statistics.median(sample.acceptance_length for sample in samples),
        drafted=statistics.median(sample.drafted for sample in samples),
        step_seconds=statistics.median(sample.step_seconds for sample in samples),
    )


def ratios(samples: Sequence[Sample], plain: Sequence[Sample]) -> tuple[float, float, float]:
    """(median, least, most) of tokens per second over plain's in the same round."""
    each = [sample.tokens_per_second / base.tokens_per_second for sample, base in zip(samples, plain, strict=True)]
    return statistics.median(each), min(each), max(each)


def summarise(
    samples: Mapping[tuple[str, int], Sequence[Sample]],  # by (mode, batch size), one per round
    num_equal: Mapping[tuple[str, int], int],  # answers equal to plain's; absent without plain
    *,
    num_answers: int,
) -> list[Summary]:
    """One line per mode and batch size, in the order of `samples`."""
    return [
        Summary(
            mode=mode,
            batch_size=batch_size,
            sample=median(rounds),
            ratio=ratios(rounds, samples[PLAIN, batch_size]) if (PLAIN, batch_size) in samples else None,
            num_equal=num_equal.get((mode, batch_size)),
            num_answers=num_answers,
        )
        for (mode, batch_size), rounds in samples.items()
    ]
