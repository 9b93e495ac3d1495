"""The engine's drafters, what is believed of their drafts, and what they are told of the text.

Decides whom to believe how much, by calibrated probabilities (confidence.py); every draft is scored on the emitted text
(scoring.py), also at K = 0. Who drafts in a step is drafting.py's matter, how many tokens each may propose policy.py's,
how many are verified that of windows.py. Works without a model: sequences in, their emitted tokens fed back by `learn`.
A drafter that raises is Broken from then on; serving goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.confidence import Calibrator, TokenKind, position_bucket, sureness_bucket
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter, LearningDrafter, why_unsound
from bowsprit_engine.speculation.drafting import AHEAD, Drafting, PoolReport, context_of
from bowsprit_engine.speculation.proposal import NOBODY
from bowsprit_engine.speculation.scoring import Candidate, SequenceScores, Watched, survivals_of
from bowsprit_engine.speculation.shadow import Shadows
from bowsprit_policy.acceptance import PRIORS
from bowsprit_policy.composition import ORDER
from bowsprit_policy.wire import DrafterState

logger = logging.getLogger(__name__)

SECONDS_KEEP = 0.9  # of a drafter's seconds per token and of a step's, per step
FORCED_PRIOR = 0.95  # P(a forced token matches), before any was judged
AS_EXPECTED = 1  # bucket of the fortune of what nobody drafted


class DrafterPool:
    """The engine's drafters, in the order in which they are asked."""

    def __init__(self, drafters: Sequence[Drafter], *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.drafters = tuple(sorted(drafters, key=lambda drafter: ORDER.index(drafter.type)))
        self.shadows = Shadows(vocab_size=vocab_size)
        self._calibrator = Calibrator()
        self._scores: dict[str, SequenceScores] = {}
        self._token_seconds: dict[str, float] = {}
        self._step_seconds: float | None = None

    def draft(
        self,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
        *,
        watch: Sequence[int] | None = None,  # per sequence: tokens for which a count-based drafter at 0 is scored
        forced: Sequence[tuple[int, ...]] | None = None,  # per sequence: what its grammar leaves no choice about
    ) -> PoolReport:
        """Ask the drafters, choose, compose. Nothing that is only watched is proposed; what is forced comes first."""
        nothing = [()] * len(sequences)
        return Drafting(self, sequences, caps, watch or [0] * len(sequences), forced or nothing).report()

    def learn(self, sequence: LiveSequence) -> list[Watched]:
        """A live sequence has new tokens: score drafts by them and let drafters learn."""
        scores = self._scores.get(sequence.request_id)
        watched = [] if scores is None else scores.score(sequence.token_ids, self._calibrator)
        self._teach(sequence)
        return watched

    def forget(self, sequence: LiveSequence) -> list[Watched]:
        """The sequence ended: score what is left, and drop what is kept of it."""
        scores = self._scores.pop(sequence.request_id, None)
        watched = [] if scores is None else scores.score(sequence.token_ids, self._calibrator, at_end=True)
        self._teach(sequence)
        self.shadows.forget(sequence)
        for drafter in self.drafters:
            try:
                drafter.forget(sequence.request_id)
            except Exception as error:
                _break_by(drafter, error)
        return watched

    def note_step(self, seconds: float) -> None:
        """What a decode step took: the price of drafting is told in steps."""
        self._step_seconds = _moved(self._step_seconds, seconds)

    def begin_revision(self, name: str) -> None:
        """A drafter was swapped: what is known of it is void."""
        self._calibrator.forget(name)
        self._calibrator.forget(name + AHEAD)
        self._token_seconds.pop(name, None)
        for scores in self._scores.values():
            scores.pending.pop(name, None)
            scores.pending.pop(name + AHEAD, None)

    def scores(self, sequence: LiveSequence) -> SequenceScores:
        return self._scores.setdefault(sequence.request_id, SequenceScores())

    def expected_gain(self, drafter: Drafter, sequence: LiveSequence, cap: int) -> float:
        """Tokens that a draft of a costly drafter is expected to add, before it is asked, less what it costs."""
        fortune = self.scores(sequence).fortune(drafter.name).bucket
        kinds = [TokenKind(drafter.name, position_bucket(i), None, None, fortune) for i in range(cap)]
        prior = PRIORS[drafter.type].match
        gain = sum(survivals_of([self._calibrator.probability(kind, prior=prior) for kind in kinds]))
        seconds = self._token_seconds.get(drafter.name)
        if seconds is None or not self._step_seconds:
            return gain
        return gain - (1.0 + gain) * cap * seconds / self._step_seconds

    def candidate(
        self, drafter: Drafter, name: str, draft: Draft, *, others: Sequence[Sequence[int]], sequence: LiveSequence,
        first: int = 0,
    ) -> Candidate:  # fmt: skip
        """A draft with what is believed of it. `first`: position of its first token in the proposal."""
        fortune = self.scores(sequence).fortune(name).bucket
        kinds = []
        for index in range(len(draft.token_ids)):
            confidence = draft.confidences[index] if draft.confidences is not None else None
            as_far = [other for other in others if len(other) > index]
            agreement = any(tuple(o[: index + 1]) == draft.token_ids[: index + 1] for o in as_far) if as_far else None
            kinds.append(
                TokenKind(name, position_bucket(first + index), sureness_bucket(confidence), agreement, fortune)
            )
        prior = PRIORS[drafter.type].match
        return Candidate(
            drafter=drafter.name,
            token_ids=draft.token_ids,
            kinds=tuple(kinds),
            probabilities=tuple(self._calibrator.probability(kind, prior=prior) for kind in kinds),
        )

    def forced_candidate(self, forced: tuple[int, ...]) -> Candidate:
        """Tokens that a grammar leaves no choice about: sure but for another cutting of the same text into tokens."""
        kinds = tuple(TokenKind(NOBODY, position_bucket(i), None, None, AS_EXPECTED) for i in range(len(forced)))
        probabilities = tuple(self._calibrator.probability(kind, prior=FORCED_PRIOR) for kind in kinds)
        return Candidate(drafter=NOBODY, token_ids=forced, kinds=kinds, probabilities=probabilities)

    def propose(self, drafter: Drafter, contexts: Sequence[DraftContext]) -> tuple[Sequence[Draft], float]:
        """One draft per context, within its limit, and the seconds that it took."""
        begin = time.perf_counter()
        drafts = self._guarded(drafter, contexts)
        seconds = time.perf_counter() - begin
        most = max(context.max_draft_tokens for context in contexts)
        per_token = seconds / (most * len(contexts))
        self._token_seconds[drafter.name] = _moved(self._token_seconds.get(drafter.name), per_token)
        return [
            Draft(
                token_ids=draft.token_ids[: context.max_draft_tokens],
                confidences=None if draft.confidences is None else draft.confidences[: context.max_draft_tokens],
            )
            for context, draft in zip(contexts, drafts, strict=True)
        ], seconds

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
        for drafter in self.drafters:
            if drafter.state is DrafterState.ACTIVE and isinstance(drafter, LearningDrafter):
                try:
                    drafter.learn(context_of(sequence, 1))
                except Exception as error:
                    _break_by(drafter, error)


def _break_by(drafter: Drafter, error: Exception) -> None:
    """From within its `except`."""
    logger.exception("drafter %s raised", drafter.name)
    _break(drafter, f"{type(error).__name__}: {error}")


def _break(drafter: Drafter, reason: str) -> None:
    drafter.state, drafter.reason = DrafterState.BROKEN, reason
    logger.error("drafter %s is Broken and not asked any more: %s", drafter.name, reason)


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old * SECONDS_KEEP + new * (1 - SECONDS_KEEP)
