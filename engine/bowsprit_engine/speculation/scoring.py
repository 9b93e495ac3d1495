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
from typing import Self

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.asking import Record
from bowsprit_engine.speculation.confidence import Fortune, Learns, Rate, TokenKind
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_engine.speculation.verify import num_leading_equal

PROMISE = 0.1  # tokens that one is worth which matched and wasn't verified: the next ones may be


def survivals_of(probabilities: Iterable[float]) -> tuple[float, ...]:
    """P(tokens 0..i all match), from P(token i matches | all before it do)."""
    return tuple(accumulate(probabilities, mul))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A draft and what is believed of it. `survivals[i]`: P(tokens 0..i all match).

    `gain`: tokens that verifying it is expected to bring, less what its rows cost. `prior`: P(a token of its drafter's
    type matches).
    """

    drafter: str
    token_ids: tuple[int, ...]
    kinds: tuple[TokenKind, ...]
    survivals: tuple[float, ...]
    gain: float
    prior: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a drafter that is held at 0 would have got: a draft of `num_drafted` (0: no proposal), and its matches."""

    drafter: str
    num_drafted: int
    num_matched: int


@dataclass(slots=True, kw_only=True)
class Pending:
    """A candidate waiting for the text. `start`: index in the sequence of its first token.

    `num_verified`: of its drafter's tokens, those that the step verified, whosever they were; None where nobody told.
    """

    candidate: Candidate
    start: int
    skipped: int  # leading tokens that another drafter proposed: they must match, and aren't scored
    is_watched: bool
    num_matched: int = 0
    num_verified: int | None = None

    @classmethod
    def of(cls, candidate: Candidate, sequence: LiveSequence, *, skipped: int = 0, is_watched: bool = False) -> Self:
        """Of a draft that was made just now."""
        return cls(candidate=candidate, start=len(sequence.token_ids), skipped=skipped, is_watched=is_watched)

    @property
    def tokens_brought(self) -> float:
        """What it was worth to ask, or would have been where it was only watched."""
        matched = max(0, self.num_matched - self.skipped)
        verified = matched if self.num_verified is None else min(matched, self.num_verified)
        return verified + PROMISE * (matched - verified)


@dataclass(slots=True, kw_only=True)
class SequenceScores:
    """The drafts of one sequence that aren't decided yet, by slot, and how its drafters have fared."""

    fortunes: dict[str, Fortune] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)  # by drafter that is asked only where it is worth it

    def fortune(self, drafter: str) -> Fortune:
        fortune = self.fortunes.get(drafter)
        if fortune is None:
            fortune = self.fortunes[drafter] = Fortune()
        return fortune

    def keep(self, slot: str, pending: Pending) -> None:
        """Wait for the text, unless an earlier draft of this slot still does."""
        self.pending.setdefault(slot, pending)

    def grant(self, proposal: Proposal, *, start: int) -> None:
        """Of the drafts just made, from index `start` of the sequence on, the step verifies this."""
        for pending in self.pending.values():
            if pending.start == start and not pending.is_watched:
                num_same = num_leading_equal(pending.candidate.token_ids, proposal.token_ids)
                pending.num_verified = max(0, num_same - pending.skipped)

    def score(self, token_ids: Sequence[int], learners: Sequence[Learns], *, at_end: bool = False) -> list[Watched]:
        """Judge pending drafts by the sequence as it is now. Returns those of drafters held at 0 that are decided."""
        watched = []
        for slot, pending in tuple(self.pending.items()):
            is_decided = self._is_decided(pending, token_ids, learners)
            if is_decided or at_end:
                del self.pending[slot]
                record = self.records.get(slot)
                if record is not None and is_decided:
                    record.add(pending.tokens_brought)
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

    def _is_decided(self, pending: Pending, token_ids: Sequence[int], learners: Sequence[Learns]) -> bool:
        drafted, kinds = pending.candidate.token_ids, pending.candidate.kinds
        while pending.num_matched < len(drafted):
            index = pending.num_matched
            if pending.start + index >= len(token_ids):
                return False
            is_match = drafted[index] == token_ids[pending.start + index]
            if index >= pending.skipped:
                kind = kinds[index - pending.skipped]
                for learner in learners:
                    learner.learn(kind, matched=is_match, prior=pending.candidate.prior)
                self.fortune(kind.drafter).add(matched=is_match)
            if not is_match:
                return True
            pending.num_matched += 1
        return len(token_ids) > pending.start


class Scores:
    """Of an engine's live sequences, by request id."""

    def __init__(self) -> None:
        self._of: dict[str, SequenceScores] = {}
        self._overall: dict[str, Rate] = {}  # matched tokens per draft of all sequences, by slot

    def of(self, sequence: LiveSequence) -> SequenceScores:
        scores = self._of.get(sequence.request_id)
        if scores is None:
            scores = self._of[sequence.request_id] = SequenceScores()
        return scores

    def known(self, sequence: LiveSequence) -> SequenceScores | None:
        """None where nobody asked for it yet."""
        return self._of.get(sequence.request_id)

    def record(self, slot: str, sequence: LiveSequence) -> Record:
        """What a count-based drafter's drafts for this sequence came to. `slot`: its name, or that with AHEAD."""
        records = self.of(sequence).records
        if slot not in records:
            records[slot] = Record(overall=self._overall.setdefault(slot, Rate()))
        return records[slot]

    def drop(self, sequence: LiveSequence) -> None:
        """It ended."""
        self._of.pop(sequence.request_id, None)

    def void(self, slot: str) -> None:
        """Its drafts wait for nothing any more."""
        for scores in self._of.values():
            scores.pending.pop(slot, None)
