"""What one step asks of the pool: who may draft how much for which sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bowsprit_engine.core.sequence import LiveSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`caps`: per sequence, most draft tokens by drafter, beside what its grammar forces.

    `watch`: per sequence, tokens for which a count-based drafter at 0 is scored. `forced`: per sequence, what its
    grammar leaves no choice about. `bound`: indices of sequences that are drafted up to their caps whether it pays or
    not. `row_price`: tokens that one more row costs the step where it needn't be there.
    """

    sequences: Sequence[LiveSequence]
    caps: Sequence[Mapping[str, int]]
    watch: Sequence[int]
    forced: Sequence[tuple[int, ...]]
    bound: frozenset[int]
    row_price: float

    @property
    def is_free(self) -> bool:
        """Nothing must be drafted."""
        return not self.bound and not any(self.forced)

    def row_price_of(self, index: int) -> float:
        """Rows of a sequence that is bound are there in any case."""
        return 0.0 if index in self.bound else self.row_price
