"""Two drafts of the same place in a text, judged by what was emitted there, and their counts side by side.

Decides what a position counts for, as verification would: reached while all before it matched. Refuses to know who
drafted and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_policy.wire import ShadowScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Drafts of the tokens from index `start` of a text on, of at most `limit` tokens. No incumbent: None."""

    start: int
    limit: int
    candidate: tuple[int, ...]
    incumbent: tuple[int, ...] | None

    def emitted(self, token_ids: Sequence[int]) -> Sequence[int]:
        """What the text has there so far."""
        return token_ids[self.start : self.start + self.limit]

    def is_decided(self, emitted: Sequence[int]) -> bool:
        """Whether more text can change no count of either draft."""
        drafts = (self.candidate,) if self.incumbent is None else (self.candidate, self.incumbent)
        return len(emitted) == self.limit or all(num_leading_equal(draft, emitted) < len(emitted) for draft in drafts)


@dataclass(slots=True, kw_only=True)
class PositionCounts:
    """By position, as ShadowScores has them."""

    reached: list[int] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)

    def add(self, num_matched: int, *, num_emitted: int) -> None:
        for counts, end in ((self.reached, min(num_matched + 1, num_emitted)), (self.matched, num_matched)):
            counts.extend([0] * (end - len(counts)))
            for position in range(end):
                counts[position] += 1

    def scores(self, revision: str | None) -> ShadowScores:
        return ShadowScores(revision=revision, reached=tuple(self.reached), matched=tuple(self.matched))


@dataclass(slots=True, kw_only=True)
class PairedScores:
    """Of a candidate against one incumbent, named by its revision; None where no revision serves."""

    incumbent: str | None
    num_pairs: int = 0
    squared_differences: int = 0
    candidate_counts: PositionCounts = field(default_factory=PositionCounts)
    incumbent_counts: PositionCounts = field(default_factory=PositionCounts)

    def add(self, pair: Pair, emitted: Sequence[int]) -> None:
        """Count a pair by the text there, as far as it goes. Without a token it says nothing."""
        if not emitted:
            return
        self.num_pairs += 1
        of_candidate = num_leading_equal(pair.candidate, emitted)
        self.candidate_counts.add(of_candidate, num_emitted=len(emitted))
        if pair.incumbent is not None:
            of_incumbent = num_leading_equal(pair.incumbent, emitted)
            self.incumbent_counts.add(of_incumbent, num_emitted=len(emitted))
            self.squared_differences += (of_candidate - of_incumbent) ** 2
