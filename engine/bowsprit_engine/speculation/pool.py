"""The engine's drafters, what is believed of their drafts, and what they are told of the text.

Decides whom to believe how much, by calibrated probabilities (confidence.py); every draft is scored on the emitted text
(scoring.py), also at K = 0. Who drafts in a step is drafting.py's matter, how many tokens each may propose policy.py's,
how many are verified that of windows.py. Works without a model: sequences in, their emitted tokens fed back by `learn`.
A drafter that raises is Broken from then on; serving goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, repeat

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.asking import MOST_GROWTH, Handling, Record, Sampling, price_of, share_of_step
from bowsprit_engine.speculation.confidence import (
    Calibrator,
    Foresight,
    Rate,
    TokenKind,
    position_bucket,
    sureness_bucket,
)
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter, LearningDrafter, why_unsound
from bowsprit_engine.speculation.drafting import AHEAD, Drafting, PoolReport, Silence, context_of
from bowsprit_engine.speculation.proposal import NOBODY, Proposal
from bowsprit_engine.speculation.scoring import Candidate, SequenceScores, Watched, survivals_of
from bowsprit_engine.speculation.shadow import Shadows
from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_policy.acceptance import PRIORS
from bowsprit_policy.composition import ORDER
from bowsprit_policy.wire import COUNT_BASED, DrafterState

logger = logging.getLogger(__name__)

SECONDS_KEEP = 0.9  # of a drafter's seconds per token and of a step's, per step
FORCED_PRIOR = 0.95  # P(a forced token matches), before any was judged
AS_EXPECTED = 1  # bucket of the fortune of what nobody drafted


@dataclass(frozen=True, slots=True, kw_only=True)
class WorthAsking:
    """A costly drafter's most promising length, and the tokens that such a draft is expected to gain, net."""

    draft_tokens: int
    gain: float


class DrafterPool:
    """The engine's drafters, in the order in which they are asked."""

    def __init__(
        self, drafters: Sequence[Drafter], *, vocab_size: int, clock: Callable[[], float] = lambda: time.perf_counter()
    ) -> None:
        """`clock`: by which asking a drafter is priced, in seconds; a replay may state prices instead."""
        self._vocab_size = vocab_size
        self._clock = clock
        self.drafters = tuple(sorted(drafters, key=lambda drafter: ORDER.index(drafter.type)))
        self.shadows = Shadows(vocab_size=vocab_size)
        self.sampling = Sampling()
        self._handling = Handling()
        self._silence: Silence | None = None
        self._learning = tuple(drafter for drafter in self.drafters if isinstance(drafter, LearningDrafter))
        self._calibrator = Calibrator()
        self._foresight = Foresight(drafter.name for drafter in self.drafters if drafter.type not in COUNT_BASED)
        self._learners = (self._calibrator, self._foresight)
        self._scores: dict[str, SequenceScores] = {}
        self._overall: dict[str, Rate] = {}  # matched tokens per draft, by count-based drafter's slot
        self._token_seconds: dict[str, float] = {}
        self._context_seconds: dict[str, float] = {}
        self._called: set[str] = set()
        self._quiet_step_seconds: float | None = None
        self._contended_step_seconds: float | None = None

    def draft(
        self,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
        *,
        watch: Sequence[int] | None = None,  # per sequence: tokens for which a count-based drafter at 0 is scored
        forced: Sequence[tuple[int, ...]] | None = None,  # per sequence: what its grammar leaves no choice about
        bound: Collection[int] = (),  # indices of sequences that are drafted up to their caps whether it pays or not
    ) -> PoolReport:
        """Ask the drafters, choose, compose. Nothing that is only watched is proposed; what is forced comes first."""
        self._handling.begin_step()
        self.sampling.begin_step(share=self._share_of_look_up(batch=len(sequences)))
        watched, first = watch or [0] * len(sequences), forced or [()] * len(sequences)
        is_as_before = not (self.sampling.is_due or bound or any(first))
        if is_as_before and self._silence is not None and self._silence.lasts(sequences, caps, watched):
            return self._silence.report
        drafting = Drafting(self, sequences, caps, watched, first, bound)
        report = drafting.report()
        self._silence = drafting.silence(report)
        return report

    def grant(self, sequences: Sequence[LiveSequence], proposals: Sequence[Proposal]) -> None:
        """The step verifies this of what `draft` proposed: what came of it is what a drafter is worth asking for."""
        for sequence, proposal in zip(sequences, proposals, strict=True):
            scores = self._scores.get(sequence.request_id)
            if scores is not None and scores.pending:
                scores.grant(proposal, start=len(sequence.token_ids))

    def learn(self, sequence: LiveSequence) -> list[Watched]:
        """A live sequence has new tokens: score drafts by them and let drafters learn."""
        scores = self._scores.get(sequence.request_id)
        watched: list[Watched] = []
        if scores is not None and scores.pending:
            begin = self._clock()
            watched = scores.score(sequence.token_ids, self._learners)
            self._handling.add(self._clock() - begin)
        self._teach(sequence)
        return watched

    def forget(self, sequence: LiveSequence) -> list[Watched]:
        """The sequence ended: score what is left, and drop what is kept of it."""
        scores = self._scores.get(sequence.request_id)
        watched = [] if scores is None else scores.score(sequence.token_ids, self._learners, at_end=True)
        self._teach(sequence)
        self._scores.pop(sequence.request_id, None)
        self.shadows.forget(sequence)
        for drafter in self.drafters:
            try:
                drafter.forget(sequence.request_id)
            except Exception as error:
                _break_by(drafter, error)
        return watched

    def note_step(self, seconds: float, *, is_contended: bool = False) -> None:
        """What a decode step took: the price of drafting is told in steps.

        Contended ones count where there are no others: on a machine that is never quiet drafting isn't free either.
        """
        if is_contended:
            self._contended_step_seconds = _moved(self._contended_step_seconds, seconds)
        else:
            self._quiet_step_seconds = _moved(self._quiet_step_seconds, seconds)

    @property
    def step_seconds(self) -> float | None:
        """Of a step now, as far as any was measured."""
        quiet = self._quiet_step_seconds
        return self._contended_step_seconds if quiet is None else quiet

    def begin_revision(self, name: str) -> None:
        """A drafter was swapped: what is known of it is void."""
        self._silence = None
        self._calibrator.forget(name)
        self._calibrator.forget(name + AHEAD)
        self._foresight.forget(name)
        self._token_seconds.pop(name, None)
        self._context_seconds.pop(name, None)
        self._called.discard(name)
        for scores in self._scores.values():
            scores.pending.pop(name, None)
            scores.pending.pop(name + AHEAD, None)

    def scores(self, sequence: LiveSequence) -> SequenceScores:
        scores = self._scores.get(sequence.request_id)
        if scores is None:
            scores = self._scores[sequence.request_id] = SequenceScores()
        return scores

    def text_of(self, sequence: LiveSequence, cap: int) -> DraftContext:
        """What a count-based drafter may look at: no state of the target. Kept, since the tokens are the live ones."""
        contexts = self.scores(sequence).contexts
        if cap not in contexts:
            contexts[cap] = replace(context_of(sequence, cap), hidden=None)
        return contexts[cap]

    @contextmanager
    def handling(self) -> Iterator[None]:
        """What is done within is part of the price of every draft, but for the asking itself."""
        begin = self._clock()
        yield
        self._handling.add(self._clock() - begin)

    def price(self, drafter: Drafter, *, batch: int) -> float:
        """Tokens that asking a count-based drafter for one of `batch` sequences costs."""
        return price_of(seconds=self._draft_seconds(drafter), step_seconds=self.step_seconds, batch=batch)

    def _draft_seconds(self, drafter: Drafter) -> float | None:
        """Of one draft of a count-based drafter, from the question to the score; None where it never made one."""
        seconds = self._context_seconds.get(drafter.name)
        return None if seconds is None else seconds + self._handling.seconds_per_draft

    def _share_of_look_up(self, *, batch: int) -> float:
        """What asking every count-based drafter for all takes of a step."""
        return sum(
            share_of_step(seconds=self._draft_seconds(drafter), step_seconds=self.step_seconds, batch=batch)
            for drafter in self.drafters
            if drafter.type in COUNT_BASED
        )

    def record(self, slot: str, sequence: LiveSequence) -> Record:
        """What a count-based drafter's drafts for this sequence came to. `slot`: its name, or that with AHEAD."""
        records = self.scores(sequence).records
        if slot not in records:
            records[slot] = Record(overall=self._overall.setdefault(slot, Rate()))
        return records[slot]

    def draft_worth_asking(self, drafter: Drafter, lengths: range, *, fortune: int, batch: int) -> WorthAsking:
        """Of these lengths that at which a costly drafter is expected to gain most, before it is asked.

        Gain: tokens that its draft is expected to add, less those that the batch would emit while it is made, chosen
        and scored. `fortune`: bucket of how it fared in the sequence; that is all that the answer depends on there.
        """
        probabilities = self._foresight.probabilities(
            drafter.name, most=lengths[-1], fortune=fortune, prior=PRIORS[drafter.type].match
        )
        added = tuple(accumulate(survivals_of(probabilities)))
        seconds, step_seconds = self._token_seconds.get(drafter.name), self.step_seconds
        per_token, beside = 0.0, 0.0
        if seconds is not None and step_seconds:
            per_token = batch * seconds / step_seconds
            beside = batch * self._handling.seconds_per_draft / step_seconds
        gains = {n: added[n - 1] - (1.0 + added[n - 1]) * (n * per_token + beside) for n in lengths}
        best = max(gains, key=gains.__getitem__)
        return WorthAsking(draft_tokens=best, gain=gains[best])

    def candidate(
        self, drafter: Drafter, name: str, draft: Draft, *, others: Sequence[Sequence[int]], sequence: LiveSequence,
        first: int = 0,
    ) -> Candidate:  # fmt: skip
        """A draft with what is believed of it. `first`: position of its first token in the proposal."""
        fortune = self.scores(sequence).fortune(name).bucket
        confidences = draft.confidences if draft.confidences is not None else repeat(None)
        longest = max(map(len, others), default=0)
        num_agreed = max((num_leading_equal(other, draft.token_ids) for other in others), default=0)
        kinds = tuple(
            TokenKind(
                name,
                position_bucket(first + index),
                sureness_bucket(confidence),
                index < num_agreed if index < longest else None,
                fortune,
            )
            for index, (_, confidence) in enumerate(zip(draft.token_ids, confidences, strict=False))
        )
        return Candidate.of(
            drafter.name,
            draft.token_ids,
            kinds,
            self._calibrator.probabilities(kinds, prior=PRIORS[drafter.type].match),
        )

    def forced_candidate(self, forced: tuple[int, ...]) -> Candidate:
        """Tokens that a grammar leaves no choice about: sure but for another cutting of the same text into tokens."""
        kinds = tuple(TokenKind(NOBODY, position_bucket(i), None, None, AS_EXPECTED) for i in range(len(forced)))
        return Candidate.of(NOBODY, forced, kinds, self._calibrator.probabilities(kinds, prior=FORCED_PRIOR))

    def propose(self, drafter: Drafter, contexts: Sequence[DraftContext]) -> tuple[Sequence[Draft], float]:
        """One draft per context, within its limit, and the seconds that it took."""
        begin = self._clock()
        drafts = self._guarded(drafter, contexts)
        seconds = self._clock() - begin
        self._handling.count(len(contexts))
        if drafter.name in self._called:
            most = max(context.max_draft_tokens for context in contexts)
            per_token = seconds / (most * len(contexts))
            self._token_seconds[drafter.name] = _moved_price(self._token_seconds.get(drafter.name), per_token)
            per_context = seconds / len(contexts)
            self._context_seconds[drafter.name] = _moved_price(self._context_seconds.get(drafter.name), per_context)
        self._called.add(drafter.name)  # a first call may touch cold weights: it says nothing of the next
        return [_cut(draft, context.max_draft_tokens) for context, draft in zip(contexts, drafts, strict=True)], seconds

    def _guarded(self, drafter: Drafter, contexts: Sequence[DraftContext]) -> Sequence[Draft]:
        try:
            drafts = drafter.propose(contexts)
            problem = why_unsound(drafts, contexts, vocab_size=self._vocab_size)
            if problem is None:
                return drafts
            _break(drafter, problem)
        except Exception as error:
            _break_by(drafter, error)
        return [Draft(token_ids=())] * len(contexts)

    def _teach(self, sequence: LiveSequence) -> None:
        learning = [drafter for drafter in self._learning if drafter.state is DrafterState.ACTIVE]
        if not learning:
            return
        context = self.text_of(sequence, 1)
        for drafter in learning:
            try:
                drafter.learn(context)
            except Exception as error:
                _break_by(drafter, error)


def _cut(draft: Draft, most: int) -> Draft:
    if len(draft.token_ids) <= most:
        return draft
    confidences = None if draft.confidences is None else draft.confidences[:most]
    return Draft(token_ids=draft.token_ids[:most], confidences=confidences)


def _break_by(drafter: Drafter, error: Exception) -> None:
    """From within its `except`."""
    logger.exception("drafter %s raised", drafter.name)
    _break(drafter, f"{type(error).__name__}: {error}")


def _break(drafter: Drafter, reason: str) -> None:
    drafter.state, drafter.reason = DrafterState.BROKEN, reason
    logger.error("drafter %s is Broken and not asked any more: %s", drafter.name, reason)


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old * SECONDS_KEEP + new * (1 - SECONDS_KEEP)


def _moved_price(old: float | None, new: float) -> float:
    """One slow answer shuts nobody up: it counts as a few times what was known at most."""
    return _moved(old, new if old is None else min(new, MOST_GROWTH * old))
