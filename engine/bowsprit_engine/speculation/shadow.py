"""Candidate revisions that draft beside those that serve, on a share of steps, and are scored by the emitted text.

Decides when a shadow drafts (its seconds stay within a share of the steps' seconds), for whom (one decoding sequence in
turn), and when one is Broken. The serving revision drafts the same places for the comparison, from the same context.
Refuses to know what is promoted by the scores. Nothing here reaches a request: drafts are made between two steps,
are never proposed, and no belief, window or counter of the pool hears of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.speculation.allowance import Allowance
from bowsprit_engine.speculation.contexts import context_of
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, ShadowableDrafter, why_unsound
from bowsprit_engine.speculation.paired_scores import Pair, PairedScores
from bowsprit_policy.wire import DrafterState, ShadowStats

logger = logging.getLogger(__name__)

SHARE = 0.01  # of step time, for all shadows of an engine
MOST_DRAFT_TOKENS = 4  # as heads are trained for; far positions cost as much as near ones, and are reached seldom


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What was loaded into the second buffer, as it was asked for."""

    revision: str
    uri: str
    sha256: str | None

    def is_same(self, *, revision: str, uri: str | None, sha256: str | None) -> bool:
        """Whether these name what is loaded: the same bytes, else the same place; the revision's name where neither."""
        if revision != self.revision:
            return False
        return sha256 == self.sha256 if sha256 is not None else uri in (None, self.uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    sequence: LiveSequence
    pair: Pair


@dataclass(slots=True, kw_only=True, eq=False)
class _Shadow:
    """One drafter's candidate while it is scored. `weights` are dropped when it is Broken."""

    drafter: ShadowableDrafter
    candidate: Candidate
    draft_tokens: int
    weights: object | None
    reason: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0
    scores: PairedScores = field(default_factory=lambda: PairedScores(incumbent=None))
    waiting: dict[str, _Waiting] = field(default_factory=dict)  # for the text, by request id

    def stats(self) -> ShadowStats:
        state = DrafterState.BROKEN if self.weights is None else DrafterState.ACTIVE
        incumbent = self.scores.incumbent
        return ShadowStats(
            state=state,
            reason=self.reason,
            sequence_steps=self.scores.num_pairs,
            squared_differences=self.scores.squared_differences,
            candidate=self.scores.candidate_counts.scores(self.candidate.revision),
            incumbent=None if incumbent is None else self.scores.incumbent_counts.scores(incumbent),
            seconds=self.seconds,
            step_seconds=self.step_seconds,
        )


class Shadows:
    """The second buffers of an engine's drafters. `stats` and `holds` from any thread, all else from the engine's."""

    def __init__(self, *, vocab_size: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: seconds, from any beginning."""
        self._vocab_size = vocab_size
        self._clock = clock
        self._allowance = Allowance(share=SHARE)
        self._lock = threading.Lock()
        self._shadows: dict[str, _Shadow] = {}
        self._num_drafts = 0

    def put(self, drafter: ShadowableDrafter, candidate: Candidate, weights: object, *, draft_tokens_max: int) -> None:
        """Score this one from now on, by drafts of at most `draft_tokens_max`; one before it is dropped.

        `weights`: what the drafter's `load_beside` returned.
        """
        draft_tokens = min(draft_tokens_max, MOST_DRAFT_TOKENS)
        shadow = _Shadow(drafter=drafter, candidate=candidate, draft_tokens=draft_tokens, weights=weights)
        with self._lock:
            self._shadows[drafter.name] = shadow

    def drop(self, name: str) -> None:
        """The drafter has no candidate any more. One that has none is left so."""
        with self._lock:
            self._shadows.pop(name, None)

    def drop_revision(self, name: str, revision: str) -> None:
        """The drafter has this candidate no more; another one stays."""
        with self._lock:
            shadow = self._shadows.get(name)
            if shadow is not None and shadow.candidate.revision == revision:
                del self._shadows[name]

    def holds(self, name: str, *, revision: str, uri: str | None, sha256: str | None) -> bool:
        """Whether the drafter's candidate is this one, and works."""
        with self._lock:
            shadow = self._shadows.get(name)
            return (
                shadow is not None
                and shadow.weights is not None
                and shadow.candidate.is_same(revision=revision, uri=uri, sha256=sha256)
            )

    def take(self, name: str, revision: str) -> object:
        """The candidate's weights, which are its drafter's from now on.

        Raises SpeculatorError ShadowLost where it has broken, or was taken or dropped, since it was held.
        """
        with self._lock:
            shadow = self._shadows.get(name)
            if shadow is None or shadow.candidate.revision != revision or shadow.weights is None:
                why = shadow.reason if shadow is not None and shadow.reason else "another call was first"
                message = f"drafter {name}: its shadow {revision} can't be promoted any more: {why}"
                raise SpeculatorError(message, reason="ShadowLost")
            del self._shadows[name]
            return shadow.weights

    def stats(self, name: str) -> ShadowStats | None:
        """None without a candidate."""
        with self._lock:
            shadow = self._shadows.get(name)
            return None if shadow is None else shadow.stats()

    def after_step(self, running: Sequence[LiveSequence], *, seconds: float) -> None:
        """A step took `seconds`: score by what it emitted, and draft where that is paid for."""
        if not self._shadows:
            return
        self._allowance.earn(seconds)
        for shadow in tuple(self._shadows.values()):
            shadow.step_seconds += seconds
            if shadow.weights is None:
                continue
            begin = self._clock()
            for waiting in tuple(shadow.waiting.values()):
                self._score(shadow, waiting)
            is_its_turn = self._allowance.is_enough
            has_drafted = is_its_turn and self._draft(shadow, running)
            spent = self._clock() - begin
            shadow.seconds += spent
            if has_drafted:
                self._allowance.spend_on_piece(spent)
            else:
                self._allowance.spend(spent)
            if is_its_turn:  # also one that had nobody to draft for: others shan't wait for it
                self._to_the_end(shadow)

    def forget(self, sequence: LiveSequence) -> None:
        """The sequence ended: its text is all there will be."""
        for shadow in self._shadows.values():
            waiting = shadow.waiting.get(sequence.request_id)
            if waiting is not None:
                self._score(shadow, waiting, is_ended=True)

    def _score(self, shadow: _Shadow, waiting: _Waiting, *, is_ended: bool = False) -> None:
        emitted = waiting.pair.emitted(waiting.sequence.token_ids)
        if is_ended or waiting.pair.is_decided(emitted):
            del shadow.waiting[waiting.sequence.request_id]
            with self._lock:
                shadow.scores.add(waiting.pair, emitted)

    def _draft(self, shadow: _Shadow, running: Sequence[LiveSequence]) -> bool:
        """Whether it was asked: one that is Broken is not, nor where no sequence is free."""
        if shadow.weights is None:
            return False
        free = [
            sequence for sequence in running if _is_draftable(sequence) and sequence.request_id not in shadow.waiting
        ]
        if not free:
            return False
        self._num_drafts += 1
        sequence = free[self._num_drafts % len(free)]
        limit = min(shadow.draft_tokens, sequence.request.sampling.max_tokens - sequence.num_emitted)
        context = context_of(sequence, limit)
        self._begin_incumbent(shadow)
        try:
            candidate = self._asked(partial(shadow.drafter.propose_by, shadow.weights), context)
        except Exception as error:
            logger.exception("the shadow of drafter %s raised", shadow.drafter.name)
            self._break(shadow, f"{type(error).__name__}: {error}")
            return True
        try:
            incumbent = None if shadow.scores.incumbent is None else self._asked(shadow.drafter.propose, context)
        except Exception:  # the pool judges those that serve
            logger.debug("drafter %s raised beside its shadow", shadow.drafter.name, exc_info=True)
            return True
        pair = Pair(start=len(sequence.token_ids), limit=limit, candidate=candidate, incumbent=incumbent)
        shadow.waiting[sequence.request_id] = _Waiting(sequence=sequence, pair=pair)
        return True

    def _begin_incumbent(self, shadow: _Shadow) -> None:
        """Where another revision serves than the one that it was compared with, scores begin again."""
        drafter = shadow.drafter
        incumbent = drafter.revision if drafter.state is DrafterState.ACTIVE else None
        if incumbent != shadow.scores.incumbent:
            shadow.waiting.clear()
            with self._lock:
                shadow.scores = PairedScores(incumbent=incumbent)

    def _asked(
        self, propose: Callable[[Sequence[DraftContext]], Sequence[Draft]], context: DraftContext
    ) -> tuple[int, ...]:
        """One draft. Raises whatever `propose` does, and ValueError for what no working drafter proposes."""
        drafts = propose([context])
        problem = why_unsound(drafts, [context], vocab_size=self._vocab_size)
        if problem is not None:
            raise ValueError(problem)
        impossible = [share for share in drafts[0].confidences or () if not 0.0 < share <= 1.0]
        if impossible:
            raise ValueError(f"confidences outside (0, 1], as of weights that are not finite: {impossible[:5]}")
        return drafts[0].token_ids[: context.max_draft_tokens]

    def _break(self, shadow: _Shadow, reason: str) -> None:
        logger.error(
            "the shadow %s of drafter %s is Broken: %s", shadow.candidate.revision, shadow.drafter.name, reason
        )
        shadow.waiting.clear()
        with self._lock:
            shadow.weights, shadow.reason = None, reason

    def _to_the_end(self, shadow: _Shadow) -> None:
        """Others draft before it does again."""
        with self._lock:
            self._shadows[shadow.drafter.name] = self._shadows.pop(shadow.drafter.name)


def _is_draftable(sequence: LiveSequence) -> bool:
    return sequence.is_decoding and sequence.hidden is not None and sequence.request.speculation.enabled
