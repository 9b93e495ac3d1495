"""Look-up after a costly drafter's tokens: who is asked how the draft goes on.

Decides by what that brought in the sequence before, as at the beginning of a draft: the first count-based drafter that
has anything to say goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bowsprit_engine.speculation.contexts import context_of
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.pool_state import PoolState
from bowsprit_engine.speculation.proposal import AHEAD
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Candidate, Pending


class Following:
    """One step's. `best`: of each sequence whose draft may go on, a costly drafter's tokens.

    `is_due`: whether look-up is worth asking for a sequence, by its index, whose record, and the price.
    """

    def __init__(
        self,
        state: PoolState,
        question: Question,
        best: Mapping[int, Candidate],
        *,
        is_due: Callable[[int, str, float], bool],
    ) -> None:
        self._state = state
        self._question = question
        self._best = best
        self._is_due = is_due
        self.found: dict[int, Candidate] = {}  # by index of the sequence
        self.seconds: dict[str, float] = {}  # by drafter

    def ask(self, drafters: Sequence[Drafter]) -> None:
        """In their order."""
        question = self._question
        for drafter in drafters:
            price = self._state.prices.look_up(drafter, batch=len(question.sequences))
            rooms = {
                index: room
                for index, best in self._best.items()
                if index not in self.found
                and (room := question.caps[index].get(drafter.name, 0) - len(best.token_ids)) > 0
                and self._is_due(index, drafter.name + AHEAD, price)
            }
            if rooms:
                self._go_on(drafter, rooms)

    def _go_on(self, drafter: Drafter, rooms: Mapping[int, int]) -> None:
        """`rooms`: most tokens."""
        name, sequences = drafter.name + AHEAD, self._question.sequences
        contexts = [
            context_of(sequences[index], room, ahead=self._best[index].token_ids) for index, room in rooms.items()
        ]
        drafts, self.seconds[drafter.name] = self._state.members.propose(drafter, contexts)
        for index, draft in zip(rooms, drafts, strict=True):
            best, sequence = self._best[index], sequences[index]
            scores = self._state.scores.of(sequence)
            if not draft.token_ids:
                if name not in scores.pending:
                    self._state.scores.record(name, sequence).add(0)
                continue
            more = self._state.beliefs.candidate(
                drafter,
                name,
                draft,
                others=(),
                fortune=scores.fortune(name).bucket,
                row_price=self._question.row_price_of(index),
                first=len(best.token_ids),
            )
            both = replace(more, token_ids=best.token_ids + more.token_ids)
            scores.keep(name, Pending.of(both, sequence, skipped=len(best.token_ids)))
            self.found[index] = more
