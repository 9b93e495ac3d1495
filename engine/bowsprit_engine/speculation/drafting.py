"""One step's drafting: whom the pool asks for which sequence, and in which order.

Decides by expected matched tokens, net of what rows and questions cost: of count-based drafters those that are worth
asking, a costly one where the batch gains by it, and look-up after its tokens (following.py). Refuses to know how
beliefs come about, which draft is the best and what becomes of it (ledger.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bowsprit_engine.speculation.contexts import context_of
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.following import Following
from bowsprit_engine.speculation.ledger import Answers, CallPrice
from bowsprit_engine.speculation.pool_state import PoolState
from bowsprit_engine.speculation.proposal import PoolReport, Proposal
from bowsprit_engine.speculation.question import Question


class Drafting:
    """One step's questions and answers."""

    def __init__(self, state: PoolState, question: Question) -> None:
        self._state = state
        self._question = question
        self._asked: dict[str, int] = {}
        self._proposed: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._asked_of: list[tuple[str, ...]] = [()] * len(question.sequences)
        self._has_drafts = False

    def report(self) -> PoolReport:
        prices, ledger = self._state.prices, self._state.ledger
        with prices.handling():
            ledger.begin_step(self._question)
        counting, costly = self._state.members.active_by_kind
        # Mostly nobody's on a text without repetitions.
        found = [answers for drafter in counting if (answers := self._look_up(drafter)) is not None]
        if found:
            with prices.handling():
                ledger.take(found)
        for drafter in costly:
            with prices.handling(costly=True):
                if tokens := self._worth_asking(drafter):
                    contexts = [context_of(self._question.sequences[index], most) for index, most in tokens.items()]
                    ledger.take([self._ask(drafter, tokens, contexts, opportunities=tokens)])
        return PoolReport(
            proposals=self._proposals(counting),
            asked=self._asked,
            proposed=self._proposed,
            seconds=self._seconds,
            asked_by_sequence=tuple(self._asked_of),
        )

    @property
    def is_silent(self) -> bool:
        """After `report`: nobody was asked, and nothing waits that could change that."""
        return not self._has_drafts and self._question.is_free and not self._state.ledger.is_waiting()

    def _look_up(self, drafter: Drafter) -> Answers | None:
        """Ask a count-based one where it may draft and that is worth it; elsewhere watch it, if it is to be watched."""
        question, name = self._question, drafter.name
        allowed: dict[int, int] = {}
        held: list[int] = []
        for index, caps in enumerate(question.caps):
            cap = caps.get(name, 0)
            if cap > 0:
                allowed[index] = cap
            elif question.watch[index] > 0 and not question.forced[index]:
                held.append(index)
        if held:
            self._watch(drafter, self._due(drafter, self._state.ledger.not_waiting(name, held)))
        if not allowed:
            return None
        due = self._due(drafter, [*allowed])
        tokens = {index: allowed[index] for index in due}
        answers = self._ask(drafter, tokens, self._contexts(tokens), opportunities=allowed)
        return answers if due else None

    def _due(self, drafter: Drafter, indices: Sequence[int]) -> Sequence[int]:
        """Of these sequences those for which a count-based drafter is asked."""
        state, question = self._state, self._question
        price = state.prices.look_up(drafter, batch=len(question.sequences))
        worth = state.ledger.due(drafter.name, indices, price=price)
        if state.sampling.is_due:
            return indices
        return [index for index in indices if index in worth or index in question.bound]

    def _watch(self, drafter: Drafter, held: Sequence[int]) -> None:
        """Ask one that is held at 0, to score it."""
        if not held:
            return
        contexts = self._contexts({index: self._question.watch[index] for index in held})
        drafts, _ = self._state.members.propose(drafter, contexts)
        self._state.ledger.watch(Answers(drafter, dict(zip(held, drafts, strict=True))))

    def _ask(
        self,
        drafter: Drafter,
        tokens: Mapping[int, int],
        contexts: Sequence[DraftContext],
        *,
        opportunities: Collection[int],
    ) -> Answers:
        """`tokens`: most draft tokens, of whom is asked for. `opportunities`: who counts as asked for.

        One for whom asking isn't worth it now has no proposal, that is all.
        """
        name = drafter.name
        drafts: Sequence[Draft] = ()
        seconds = 0.0
        if tokens:
            drafts, seconds = self._state.members.propose(drafter, contexts)
            self._has_drafts = True
        for index in opportunities:
            self._asked_of[index] += (name,)
        self._asked[name] = len(opportunities)
        self._proposed[name] = sum([bool(draft.token_ids) for draft in drafts])
        self._seconds[name] = seconds
        return Answers(drafter, dict(zip(tokens, drafts, strict=True)))

    def _contexts(self, tokens: Mapping[int, int]) -> Sequence[DraftContext]:
        """What a count-based one looks at: after what is forced. `tokens`: most, by index."""
        sequences, forced, texts = self._question.sequences, self._question.forced, self._state.texts
        return [
            context_of(sequences[index], most, ahead=forced[index])
            if forced[index]
            else texts.of(sequences[index], most)
            for index, most in tokens.items()
        ]

    def _worth_asking(self, drafter: Drafter) -> Mapping[int, int]:
        """For whom a costly one is asked, and for how many tokens; it ignores `ahead`, so not after forced ones."""
        prices, question = self._state.prices, self._question
        caps = {
            index: cap
            for index, (by_name, first) in enumerate(zip(question.caps, question.forced, strict=True))
            if (cap := by_name.get(drafter.name, 0)) > 0 and not first
        }
        if not caps:
            return {}
        call = [0.0, *prices.calls(drafter, most=max(caps.values()))]
        return self._state.ledger.whom_to_ask(drafter, caps, CallPrice(call, prices.handling_share))

    def _proposals(self, counting: Sequence[Drafter]) -> tuple[Proposal, ...]:
        prices, ledger = self._state.prices, self._state.ledger
        if self._has_drafts and (open_ends := ledger.open_ends()):
            following = Following(self._state, self._question, open_ends)
            with prices.handling(costly=True):
                following.ask(counting)
            for name, seconds in following.seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        with prices.handling():
            return ledger.proposals()
