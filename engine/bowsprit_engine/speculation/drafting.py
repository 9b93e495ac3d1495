"""One step's drafting: whom the pool asks for which sequence, and whose answer is taken.

Decides by expected matched tokens, net of what rows and questions cost: of count-based drafters the best, a costly one
where the batch gains by it (costly.py), and look-up after its tokens (following.py). Refuses to know how beliefs come
about (beliefs.py) and what becomes of a draft (scoring.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bowsprit_engine.speculation.composing import proposal_of
from bowsprit_engine.speculation.contexts import context_of
from bowsprit_engine.speculation.costly import Wish, whom_to_ask
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.following import Following
from bowsprit_engine.speculation.pool_state import PoolState
from bowsprit_engine.speculation.proposal import NOTHING, PoolReport, Proposal
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Candidate, Pending
from bowsprit_policy.wire import COUNT_BASED


class Drafting:
    """One step's questions and answers."""

    def __init__(self, state: PoolState, question: Question) -> None:
        self._state = state
        self._question = question
        self._scores = [state.scores.of(sequence) for sequence in question.sequences]
        self._asked: dict[str, int] = {}
        self._proposed: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._asked_of: list[tuple[str, ...]] = [()] * len(question.sequences)
        # Of whom anybody was asked for: mostly nobody on a text without repetitions.
        self._best: dict[int, Candidate] = {}
        self._drafts: dict[int, dict[str, Draft]] = {}

    def report(self) -> PoolReport:
        active = self._state.members.active
        counting = [drafter for drafter in active if drafter.type in COUNT_BASED]
        for drafter in counting:
            self._look_up(drafter)
        if self._drafts:
            with self._state.prices.handling():
                self._choose(counting)
        for drafter in active:
            if drafter.type not in COUNT_BASED:
                with self._state.prices.handling(costly=True):
                    if tokens := self._worth_asking(drafter):
                        self._ask(drafter, tokens, opportunities=tokens)
                        self._choose([drafter])
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
        return not self._drafts and self._question.is_free and not any(scores.pending for scores in self._scores)

    def _look_up(self, drafter: Drafter) -> None:
        """Ask a count-based one where it may draft and that is worth it; elsewhere watch it, if it is to be watched."""
        question = self._question
        price = self._state.prices.look_up(drafter, batch=len(question.sequences))
        allowed: list[int] = []
        due: dict[int, int] = {}
        held: list[int] = []
        for index, caps in enumerate(question.caps):
            cap = caps.get(drafter.name, 0)
            if cap > 0:
                allowed.append(index)
                if self._is_due(index, drafter.name, price):
                    due[index] = cap
            elif question.watch[index] > 0 and not question.forced[index]:
                held.append(index)
        self._ask(drafter, due, opportunities=allowed)
        self._watch(drafter, [index for index in held if self._is_watchable(drafter, index, price)])

    def _is_due(self, index: int, slot: str, price: float) -> bool:
        """Of a count-based one. `slot`: its name, with AHEAD for what follows another drafter's tokens."""
        state = self._state
        record = self._scores[index].records.get(slot) or state.scores.record(slot, self._question.sequences[index])
        return state.sampling.is_due or index in self._question.bound or record.worth >= price

    def _is_watchable(self, drafter: Drafter, index: int, price: float) -> bool:
        """Of one that is held at 0: no earlier draft of it waits for the text."""
        return drafter.name not in self._scores[index].pending and self._is_due(index, drafter.name, price)

    def _watch(self, drafter: Drafter, held: Sequence[int]) -> None:
        """Ask one that is held at 0, to score it."""
        if not held:
            return
        contexts = [self._context(drafter, index, self._question.watch[index]) for index in held]
        drafts, _ = self._state.members.propose(drafter, contexts)
        for index, draft in zip(held, drafts, strict=True):
            candidate = self._candidate(drafter, draft, index, others=())
            pending = Pending.of(candidate, self._question.sequences[index], is_watched=True)
            self._scores[index].keep(drafter.name, pending)

    def _ask(self, drafter: Drafter, tokens: Mapping[int, int], *, opportunities: Collection[int]) -> None:
        """`tokens`: most draft tokens, of whom is asked for. `opportunities`: who counts as asked for.

        One for whom asking isn't worth it now has no proposal, that is all.
        """
        if not opportunities:
            return
        drafts: Sequence[Draft] = ()
        seconds = 0.0
        if tokens:
            contexts = [self._context(drafter, index, most) for index, most in tokens.items()]
            drafts, seconds = self._state.members.propose(drafter, contexts)
        for index in opportunities:
            self._asked_of[index] += (drafter.name,)
        for index, draft in zip(tokens, drafts, strict=True):
            self._drafts.setdefault(index, {})[drafter.name] = draft
        self._asked[drafter.name] = len(opportunities)
        self._proposed[drafter.name] = sum([bool(draft.token_ids) for draft in drafts])
        self._seconds[drafter.name] = seconds

    def _context(self, drafter: Drafter, index: int, cap: int) -> DraftContext:
        sequence, ahead = self._question.sequences[index], self._question.forced[index]
        if drafter.type in COUNT_BASED and not ahead:
            return self._state.scores.text_of(sequence, cap)
        return context_of(sequence, cap, ahead=ahead)

    def _worth_asking(self, drafter: Drafter) -> Mapping[int, int]:
        """For whom a costly one is asked, and for how many tokens; it ignores `ahead`, so not after forced ones."""
        question, prices = self._question, self._state.prices
        caps = {
            index: cap
            for index, (by_name, first) in enumerate(zip(question.caps, question.forced, strict=True))
            if (cap := by_name.get(drafter.name, 0)) and not first
        }
        if not caps:
            return {}
        certain = {index: cap for index, cap in caps.items() if index in question.bound and index not in self._best}
        worth = whom_to_ask(
            self._wishes(drafter, {index: cap for index, cap in caps.items() if index not in certain}),
            call=lambda tokens: prices.call(drafter, tokens),
            each=prices.handling_share,
            step_tokens=len(question.sequences) + sum([best.gain for best in self._best.values()]),
            at_least=max(certain.values(), default=0),
        )
        return certain | worth

    def _wishes(self, drafter: Drafter, caps: Mapping[int, int]) -> list[Wish]:
        """One for each of these sequences; who is bound wants as many tokens as it may have, or none."""
        wishes = []
        for index, cap in caps.items():
            if self._had(index) >= cap:
                continue  # it can't bring more than that
            added = self._state.beliefs.added(
                drafter,
                most=cap,
                fortune=self._scores[index].fortune(drafter.name).bucket,
                row_price=self._question.row_price,
                had=self._had(index),
            )
            if index in self._question.bound:
                added = [0.0] * (cap - 1) + [added[-1]]
            if added[-1] > 0.0:
                wishes.append(Wish(index=index, added=added))
        return wishes

    def _had(self, index: int) -> float:
        """Tokens that the best draft so far gains."""
        best = self._best.get(index)
        return 0.0 if best is None else best.gain

    def _candidate(self, drafter: Drafter, draft: Draft, index: int, *, others: Sequence[Sequence[int]]) -> Candidate:
        return self._state.beliefs.candidate(
            drafter,
            drafter.name,
            draft,
            others=others,
            fortune=self._scores[index].fortune(drafter.name).bucket,
            row_price=self._question.row_price_of(index),
            first=len(self._question.forced[index]),
        )

    def _choose(self, drafters: Sequence[Drafter]) -> None:
        for index, drafts in self._drafts.items():
            sequence, first = self._question.sequences[index], self._question.forced[index]
            for drafter in drafters:
                draft = drafts.get(drafter.name)
                if draft is None:
                    continue
                if not draft.token_ids:
                    if drafter.type in COUNT_BASED and drafter.name not in self._scores[index].pending:
                        self._state.scores.record(drafter.name, sequence).add(0)
                    continue
                others = [other.token_ids for name, other in drafts.items() if name != drafter.name]
                candidate = self._candidate(drafter, draft, index, others=others)
                whole = replace(candidate, token_ids=first + candidate.token_ids) if first else candidate
                self._scores[index].keep(drafter.name, Pending.of(whole, sequence, skipped=len(first)))
                if drafter.type not in COUNT_BASED:
                    self._state.beliefs.heard(
                        candidate,
                        num_drafted=len(draft.token_ids),
                        fortune=self._scores[index].fortune(drafter.name).bucket,
                        row_price=self._question.row_price,
                        had=self._had(index),
                    )
                if index not in self._best or candidate.gain > self._best[index].gain:
                    self._best[index] = candidate

    def _proposals(self, counting: Sequence[Drafter]) -> tuple[Proposal, ...]:
        names = {drafter.name for drafter in counting}
        open_ends = {index: best for index, best in self._best.items() if best.drafter not in names}
        following = Following(self._state, self._question, open_ends, is_due=self._is_due)
        if open_ends:
            with self._state.prices.handling(costly=True):
                following.ask(counting)
        for name, seconds in following.seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        with self._state.prices.handling():
            return tuple(
                [
                    proposal_of(self._forced(index), self._best.get(index), following.found.get(index))
                    if index in self._best or self._question.forced[index]
                    else NOTHING
                    for index in range(len(self._question.sequences))
                ]
            )

    def _forced(self, index: int) -> Candidate | None:
        token_ids = self._question.forced[index]
        if not token_ids:
            return None
        candidate = self._state.beliefs.forced(token_ids)
        self._scores[index].keep(candidate.drafter, Pending.of(candidate, self._question.sequences[index]))
        return candidate
