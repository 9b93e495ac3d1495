"""What became of drafts, by the text that was emitted: whoever drafted it, whether or not it was verified.

Decides when a draft is scored: one at a time per sequence and drafter, until a token differs, all were emitted or the
sequence ends, then the next, so that its drafts are those of a sequence which it drafts alone. Refuses to know who
asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul

from bowsprit_engine.speculation.confidence import Calibrator, Fortune, TokenKind


def survivals_of(probabilities: Iterable[float]) -> tuple[float, ...]:
    """P(tokens 0..i all match), from P(token i matches | all before it do)."""
    return tuple(accumulate(probabilities, mul))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A draft and what is believed of it. `probabilities[i]`: P(token i matches | all before it do)."""

    drafter: str
    token_ids: tuple[int, ...]
    kinds: tuple[TokenKind, ...]
    probabilities: tuple[float, ...]

    @property
    def survivals(self) -> tuple[float, ...]:
        return survivals_of(self.probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a drafter that is held at 0 would have got: a draft of `num_drafted` (0: no proposal), and its matches."""

    drafter: str
    num_drafted: int
    num_matched: int


@dataclass(slots=True, kw_only=True)
class Pending:
    """A candidate waiting for the text. `start`: index in the sequence of its first token."""

    candidate: Candidate
    start: int
    skipped: int  # leading tokens that another drafter proposed: they must match, and aren't scored
    is_watched: bool
    num_matched: int = 0


@dataclass(slots=True, kw_only=True)
class SequenceScores:
    """The drafts of one sequence that aren't decided yet, by slot, and how its drafters have fared."""

    fortunes: dict[str, Fortune] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)

    def fortune(self, drafter: str) -> Fortune:
        return self.fortunes.setdefault(drafter, Fortune())

    def keep(self, slot: str, pending: Pending) -> None:
        """Wait for the text, unless an earlier draft of this slot still does."""
        self.pending.setdefault(slot, pending)

    def score(self, token_ids: Sequence[int], calibrator: Calibrator, *, at_end: bool = False) -> list[Watched]:
        """Judge pending drafts by the sequence as it is now. Returns those of drafters held at 0 that are decided."""
        watched = []
        for slot, pending in tuple(self.pending.items()):
            is_decided = self._is_decided(pending, token_ids, calibrator)
            if is_decided or at_end:
                del self.pending[slot]
                if pending.is_watched and len(token_ids) > pending.start:
                    length = len(pending.candidate.token_ids)
                    watched.append(
                        Watched(
                            drafter=pending.candidate.drafter,
                            num_drafted=length if is_decided else min(length, len(token_ids) - pending.start),
                            num_matched=pending.num_matched,
                        )
                    )
        return watched

    def _is_decided(self, pending: Pending, token_ids: Sequence[int], calibrator: Calibrator) -> bool:
        candidate = pending.candidate
        while pending.num_matched < len(candidate.token_ids):
            index = pending.num_matched
            if pending.start + index >= len(token_ids):
                return False
            is_match = candidate.token_ids[index] == token_ids[pending.start + index]
            if index >= pending.skipped:
                at = index - pending.skipped
                calibrator.learn(candidate.kinds[at], matched=is_match)
                self.fortune(candidate.kinds[at].drafter).add(matched=is_match)
            if not is_match:
                return True
            pending.num_matched += 1
        return len(token_ids) > pending.start
