"""The pool's drafters: asked and taught in one order, each call timed, and what doesn't work shut out.

Decides when a drafter is Broken: it raised, or gave what no working drafter gives. Serving goes on. Refuses to know
for whom one is asked, and what its drafts are worth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter, LearningDrafter, why_unsound
from bowsprit_engine.speculation.prices import Prices
from bowsprit_policy.composition import ORDER
from bowsprit_policy.wire import COUNT_BASED, DrafterState

logger = logging.getLogger(__name__)


class Members:
    """In the order in which they are asked."""

    def __init__(self, drafters: Sequence[Drafter], *, vocab_size: int, prices: Prices) -> None:
        self.drafters = tuple(sorted(drafters, key=lambda drafter: ORDER.index(drafter.type)))
        self._counting = frozenset(drafter.name for drafter in self.drafters if drafter.type in COUNT_BASED)
        self._learning = tuple(drafter for drafter in self.drafters if isinstance(drafter, LearningDrafter))
        self._vocab_size = vocab_size
        self._prices = prices

    @property
    def active_by_kind(self) -> tuple[list[Drafter], list[Drafter]]:
        """The count-based ones, and the costly ones."""
        active = [drafter for drafter in self.drafters if drafter.state is DrafterState.ACTIVE]
        counting = [drafter for drafter in active if drafter.name in self._counting]
        return counting, [drafter for drafter in active if drafter.name not in self._counting]

    @property
    def has_learner(self) -> bool:
        """Whether anybody might want to be taught."""
        return bool(self._learning)

    def propose(self, drafter: Drafter, contexts: Sequence[DraftContext]) -> tuple[Sequence[Draft], float]:
        """One draft per context, within its limit, and the seconds that it took."""
        most = max([context.max_draft_tokens for context in contexts])
        with self._prices.asking(drafter, sequences=len(contexts), tokens=most) as taken:
            drafts = self._guarded(drafter, contexts)
        if any(len(d.token_ids) > c.max_draft_tokens for c, d in zip(contexts, drafts, strict=True)):
            drafts = [_cut(draft, context.max_draft_tokens) for context, draft in zip(contexts, drafts, strict=True)]
        return drafts, taken[0]

    def teach(self, context: DraftContext) -> None:
        """A sequence has these tokens now."""
        for drafter in self._learning:
            if drafter.state is DrafterState.ACTIVE:
                try:
                    drafter.learn(context)
                except Exception as error:
                    _break_by(drafter, error)

    def forget(self, request_id: str) -> None:
        """The sequence ended."""
        for drafter in self.drafters:
            try:
                drafter.forget(request_id)
            except Exception as error:
                _break_by(drafter, error)

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
