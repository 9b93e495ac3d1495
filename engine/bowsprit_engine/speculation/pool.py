"""Who drafts for each sequence: the count-based drafter that is expected to gain most, or a costly one that gains more.

Decides by calibrated probabilities (confidence.py): count-based drafters are asked for every sequence that may draft,
the others only where nobody proposes or where they are expected to gain more than they cost; after their tokens a
count-based drafter goes on. Every draft is scored on the emitted text (scoring.py), also at K = 0. How many tokens each
may propose is given (policy.py), how many are verified is not its matter (windows.py). Works without a model: sequences
in, their emitted tokens fed back by `learn`. A drafter that raises is Broken from then on; serving goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.confidence import Calibrator, TokenKind, position_bucket, sureness_bucket
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter, LearningDrafter
from bowsprit_engine.speculation.proposal import NOBODY, Proposal
from bowsprit_engine.speculation.scoring import Candidate, Pending, SequenceScores, Watched
from bowsprit_policy.acceptance import PRIORS
from bowsprit_policy.composition import ORDER
from bowsprit_policy.wire import COUNT_BASED, DrafterState

logger = logging.getLogger(__name__)

SECONDS_KEEP = 0.9  # of a drafter's seconds per token and of a step's, per step
FORCED_PRIOR = 0.95  # P(a forced token matches), before any was judged
AS_EXPECTED = 1  # bucket of the fortune of what nobody drafted
AHEAD = "+"  # marks tokens that follow another drafter's: they match more or less often than those that begin


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One step's drafting: a proposal per sequence; who was asked, proposed, and for how long.

    `asked_by_sequence`: who was asked to begin, per sequence. Drafters held at 0 that are only watched are in none.
    """

    proposals: tuple[Proposal, ...]
    asked: Mapping[str, int] = field(default_factory=dict)
    proposed: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    asked_by_sequence: tuple[tuple[str, ...], ...] = ()


class DrafterPool:
    """The engine's drafters, in the order in which they are asked."""

    def __init__(self, drafters: Sequence[Drafter], *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.drafters = tuple(sorted(drafters, key=lambda drafter: ORDER.index(drafter.type)))
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
        return _Drafting(self, sequences, caps, watch or [0] * len(sequences), forced or nothing).report()

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
        for drafter in self.drafters:
            try:
                drafter.forget(sequence.request_id)
            except Exception as error:
                logger.exception("drafter %s raised", drafter.name)
                _break(drafter, f"{type(error).__name__}: {error}")
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
        gain, survival = 0.0, 1.0
        for kind in kinds:
            survival *= self._calibrator.probability(kind, prior=PRIORS[drafter.type].match)
            gain += survival
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
            strange = [token for draft in drafts for token in draft.token_ids if not 0 <= token < self._vocab_size]
            short = [d for d in drafts if d.confidences is not None and len(d.confidences) != len(d.token_ids)]
            if len(drafts) == len(contexts) and not strange and not short:
                return drafts
            reason = (
                f"{len(drafts)} drafts for {len(contexts)} sequences, tokens outside the vocabulary: {strange[:5]}, "
                f"{len(short)} drafts without a confidence for each token"
            )
        except Exception as error:
            logger.exception("drafter %s raised", drafter.name)
            reason = f"{type(error).__name__}: {error}"
        _break(drafter, reason)
        return [Draft(token_ids=())] * len(contexts)

    def _teach(self, sequence: LiveSequence) -> None:
        for drafter in self.drafters:
            if drafter.state is DrafterState.ACTIVE and isinstance(drafter, LearningDrafter):
                try:
                    drafter.learn(context_of(sequence, 1))
                except Exception as error:
                    logger.exception("drafter %s raised", drafter.name)
                    _break(drafter, f"{type(error).__name__}: {error}")


class _Drafting:
    """One step's questions and answers."""

    def __init__(
        self,
        pool: DrafterPool,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],
        watch: Sequence[int],
        forced: Sequence[tuple[int, ...]],
    ) -> None:
        self._pool = pool
        self._sequences = sequences
        self._forced = forced
        self._caps = [
            {name: max(0, cap - len(first)) for name, cap in by_name.items()}
            for by_name, first in zip(caps, forced, strict=True)
        ]
        self._watch = [0 if first else tokens for tokens, first in zip(watch, forced, strict=True)]
        self._asked: dict[str, int] = {}
        self._proposed: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._asked_of: list[list[str]] = [[] for _ in sequences]
        self._best: list[Candidate | None] = [None] * len(sequences)
        self._drafts: list[dict[str, Draft]] = [{} for _ in sequences]

    def report(self) -> PoolReport:
        active = [drafter for drafter in self._pool.drafters if drafter.state is DrafterState.ACTIVE]
        counting = [drafter for drafter in active if drafter.type in COUNT_BASED]
        for drafter in counting:
            self._ask(drafter, [index for index, caps in enumerate(self._caps) if caps.get(drafter.name, 0) > 0])
            self._watch_held(drafter)
        self._choose(counting)
        for drafter in active:
            if drafter.type not in COUNT_BASED:
                free = [index for index, first in enumerate(self._forced) if not first]  # costly ones ignore `ahead`
                self._ask(drafter, [index for index in free if self._is_worth(drafter, index)])
                self._choose([drafter])
        proposals = tuple(
            self._after_forced(index, self._composed(index, counting)) for index in range(len(self._sequences))
        )
        return PoolReport(
            proposals=proposals,
            asked=self._asked,
            proposed=self._proposed,
            seconds=self._seconds,
            asked_by_sequence=tuple(map(tuple, self._asked_of)),
        )

    def _ask(self, drafter: Drafter, indices: Sequence[int]) -> None:
        if not indices:
            return
        contexts = [
            context_of(self._sequences[index], self._caps[index][drafter.name], ahead=self._forced[index])
            for index in indices
        ]
        drafts, seconds = self._pool.propose(drafter, contexts)
        for index, draft in zip(indices, drafts, strict=True):
            self._asked_of[index].append(drafter.name)
            self._drafts[index][drafter.name] = draft
        self._asked[drafter.name] = len(indices)
        self._proposed[drafter.name] = sum(bool(draft.token_ids) for draft in drafts)
        self._seconds[drafter.name] = seconds

    def _watch_held(self, drafter: Drafter) -> None:
        """Ask one that is held at 0, where no earlier draft of it waits for the text."""
        for index, sequence in enumerate(self._sequences):
            scores = self._pool.scores(sequence)
            is_held = self._caps[index].get(drafter.name, 0) == 0
            if is_held and self._watch[index] > 0 and drafter.name not in scores.pending:
                drafts, _ = self._pool.propose(drafter, [context_of(sequence, self._watch[index])])
                candidate = self._pool.candidate(drafter, drafter.name, drafts[0], others=(), sequence=sequence)
                scores.keep(drafter.name, _pending(candidate, sequence, is_watched=True))

    def _is_worth(self, drafter: Drafter, index: int) -> bool:
        cap = self._caps[index].get(drafter.name, 0)
        if cap == 0:
            return False
        best = self._best[index]
        return best is None or self._pool.expected_gain(drafter, self._sequences[index], cap) > sum(best.survivals)

    def _choose(self, drafters: Sequence[Drafter]) -> None:
        for index, sequence in enumerate(self._sequences):
            drafts = self._drafts[index]
            for drafter in drafters:
                draft = drafts.get(drafter.name)
                if draft is None or not draft.token_ids:
                    continue
                others = [other.token_ids for name, other in drafts.items() if name != drafter.name]
                first = self._forced[index]
                candidate = self._pool.candidate(
                    drafter, drafter.name, draft, others=others, sequence=sequence, first=len(first)
                )
                whole = replace(candidate, token_ids=first + candidate.token_ids) if first else candidate
                self._pool.scores(sequence).keep(drafter.name, _pending(whole, sequence, skipped=len(first)))
                best = self._best[index]
                if best is None or sum(candidate.survivals) > sum(best.survivals):
                    self._best[index] = candidate

    def _after_forced(self, index: int, proposal: Proposal) -> Proposal:
        first = self._forced[index]
        if not first:
            return proposal
        candidate, sequence = self._pool.forced_candidate(first), self._sequences[index]
        self._pool.scores(sequence).keep(NOBODY, _pending(candidate, sequence))
        survivals = candidate.survivals
        return Proposal(
            token_ids=first + proposal.token_ids,
            sources=(NOBODY,) * len(first) + proposal.sources,
            survivals=survivals + tuple(survivals[-1] * survival for survival in proposal.survivals),
        )

    def _composed(self, index: int, counting: Sequence[Drafter]) -> Proposal:
        best, sequence = self._best[index], self._sequences[index]
        if best is None:
            return Proposal()
        length = len(best.token_ids)
        proposal = Proposal(token_ids=best.token_ids, sources=(best.drafter,) * length, survivals=best.survivals)
        for drafter in counting:
            room = self._caps[index].get(drafter.name, 0) - length
            if room <= 0 or best.drafter in {other.name for other in counting}:
                continue
            drafts, seconds = self._pool.propose(drafter, [context_of(sequence, room, ahead=best.token_ids)])
            self._seconds[drafter.name] = self._seconds.get(drafter.name, 0.0) + seconds
            name = drafter.name + AHEAD
            more = self._pool.candidate(drafter, name, drafts[0], others=(), sequence=sequence, first=length)
            if more.token_ids:
                both = Candidate(
                    drafter=drafter.name,
                    token_ids=best.token_ids + more.token_ids,
                    kinds=more.kinds,
                    probabilities=more.probabilities,
                )
                self._pool.scores(sequence).keep(name, _pending(both, sequence, skipped=length))
                return Proposal(
                    token_ids=both.token_ids,
                    sources=proposal.sources + (drafter.name,) * len(more.token_ids),
                    survivals=best.survivals + tuple(best.survivals[-1] * s for s in more.survivals),
                )
        return proposal


def context_of(sequence: LiveSequence, cap: int, *, ahead: tuple[int, ...] = ()) -> DraftContext:
    """What a drafter may look at. `cap`: most tokens."""
    request = sequence.request
    return DraftContext(
        request_id=request.request_id,
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        max_draft_tokens=cap,
        seed=request.sampling.seed,
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        min_p=request.sampling.min_p,
        num_prompt_tokens=sequence.num_prompt_tokens,
        tenant=request.tenant,
        ahead=ahead,
    )


def _pending(candidate: Candidate, sequence: LiveSequence, *, skipped: int = 0, is_watched: bool = False) -> Pending:
    return Pending(candidate=candidate, start=len(sequence.token_ids), skipped=skipped, is_watched=is_watched)


def _break(drafter: Drafter, reason: str) -> None:
    drafter.state, drafter.reason = DrafterState.BROKEN, reason
    logger.error("drafter %s is Broken and not asked any more: %s", drafter.name, reason)


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old * SECONDS_KEEP + new * (1 - SECONDS_KEEP)
