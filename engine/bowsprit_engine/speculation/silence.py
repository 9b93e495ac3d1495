"""Steps in which nobody is asked, since nothing is worth it: how long such a step's answer stays the next ones'.

What a drafter is worth changes with what becomes of its drafts, and none of these waits for its text. Step times move
a costly one's price: it is looked at again when all look-up is asked, whatever it is worth (asking.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.proposal import PoolReport
from bowsprit_engine.speculation.question import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """`drafters`: per sequence, who may draft."""

    sequences: Sequence[LiveSequence]
    drafters: Sequence[tuple[str, ...]]
    watch: Sequence[int]
    report: PoolReport

    @classmethod
    def of(cls, question: Question, report: PoolReport) -> Self:
        drafters = [*map(_who_may, question.caps)]
        return cls(sequences=[*question.sequences], drafters=drafters, watch=[*question.watch], report=report)

    def lasts(self, question: Question) -> bool:
        return (
            [*question.sequences] == self.sequences
            and question.watch == self.watch
            and [*map(_who_may, question.caps)] == self.drafters
        )


def _who_may(caps: Mapping[str, int]) -> tuple[str, ...]:
    return tuple([name for name, cap in caps.items() if cap > 0])
