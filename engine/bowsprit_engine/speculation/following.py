"""Look-up after a costly drafter's tokens: who is asked how the draft goes on.

Decides by what that brought in the sequence before, as at the beginning of a draft: the first count-based drafter that
has anything to say goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bowsprit_engine.speculation.contexts import context_of
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.ledger import Answers
from bowsprit_engine.speculation.pool_state import PoolState
from bowsprit_engine.speculation.proposal import AHEAD
from bowsprit_engine.speculation.question import Question


class Following:
    """One step's. `open_ends`: of each sequence whose draft may go on, a costly drafter's tokens."""

    def __init__(self, state: PoolState, question: Question, open_ends: Mapping[int, tuple[int, ...]]) -> None:
        self._state = state
        self._question = question
        self._open_ends = dict(open_ends)
        self.seconds: dict[str, float] = {}  # by drafter

    def ask(self, drafters: Sequence[Drafter]) -> None:
        """In their order."""
        for drafter in drafters:
            if rooms := self._rooms(drafter):
                self._go_on(drafter, rooms)

    def _rooms(self, drafter: Drafter) -> Mapping[int, int]:
        """Most tokens, where that is worth asking for."""
        state, question = self._state, self._question
        rooms = {
            index: room
            for index, ahead in self._open_ends.items()
            if (room := question.caps[index].get(drafter.name, 0) - len(ahead)) > 0
        }
        if not rooms:
            return {}
        price = state.prices.look_up(drafter, batch=len(question.sequences))
        worth = state.ledger.due(drafter.name + AHEAD, [*rooms], price=price)
        is_due = state.sampling.is_due
        return {i: room for i, room in rooms.items() if is_due or i in worth or i in question.bound}

    def _go_on(self, drafter: Drafter, rooms: Mapping[int, int]) -> None:
        sequences, ends = self._question.sequences, self._open_ends
        contexts = [context_of(sequences[index], room, ahead=ends[index]) for index, room in rooms.items()]
        drafts, self.seconds[drafter.name] = self._state.members.propose(drafter, contexts)
        for index in self._state.ledger.follow(Answers(drafter, dict(zip(rooms, drafts, strict=True)))):
            del ends[index]
