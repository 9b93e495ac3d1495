"""One step's drafting: whom the pool asks for which sequence, what it takes of their answers, and what it composes.

Decides by expected matched tokens: of count-based drafters the best, a costly one where it is worth its price; after
what a grammar forces, and after a costly one's tokens, a count-based drafter goes on. Refuses to know how beliefs come
about (confidence.py) and what becomes of a draft (scoring.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.proposal import NOBODY, Proposal
from bowsprit_engine.speculation.scoring import Candidate, Pending
from bowsprit_policy.wire import COUNT_BASED, DrafterState

if TYPE_CHECKING:
    from bowsprit_engine.speculation.pool import DrafterPool, WorthAsking

NOTHING = Proposal()
AHEAD = "+"  # marks tokens that follow another drafter's: they match more or less often than those that begin


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One step's drafting: a proposal per sequence; who was asked, proposed, and for how long.

    `asked_by_sequence`: whose turn it was to begin, per sequence; look-up that wasn't worth asking counts as asked, so
    that E is of all steps. Drafters held at 0 that are only watched are in none.
    """

    proposals: tuple[Proposal, ...]
    asked: Mapping[str, int] = field(default_factory=dict)
    proposed: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    asked_by_sequence: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A step in which nobody was asked, since nothing was worth it: so are the next ones of the same sequences.

    What a drafter is worth changes with what becomes of its drafts, and none of these waits for its text. Step times
    move a costly one's price: it is looked at again when all look-up is asked, whatever it is worth (asking.py).
    `drafters`: per sequence, who may draft.
    """

    sequences: Sequence[LiveSequence]
    drafters: Sequence[tuple[str, ...]]
    watch: Sequence[int]
    report: PoolReport

    def lasts(self, sequences: Sequence[LiveSequence], caps: Sequence[Mapping[str, int]], watch: Sequence[int]) -> bool:
        return [*sequences] == self.sequences and watch == self.watch and [*map(_who_may, caps)] == self.drafters


class Drafting:
    """One step's questions and answers."""

    def __init__(
        self,
        pool: DrafterPool,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],
        watch: Sequence[int],
        forced: Sequence[tuple[int, ...]],
        bound: Collection[int],
    ) -> None:
        self._pool = pool
        self._sequences = sequences
        self._forced = forced
        self._bound = frozenset(bound)
        self._caps = [
            {name: max(0, cap - len(first)) for name, cap in by_name.items()} if first else by_name
            for by_name, first in zip(caps, forced, strict=True)
        ]
        self._watch = watch
        self._asked: dict[str, int] = {}
        self._proposed: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._asked_of: list[tuple[str, ...]] = [()] * len(sequences)
        self._scores = [pool.scores(sequence) for sequence in sequences]
        # Of whom anybody was asked for: mostly nobody on a text without repetitions.
        self._best: dict[int, Candidate] = {}
        self._drafts: dict[int, dict[str, Draft]] = {}
        self._worth: dict[tuple[str, range, int], WorthAsking] = {}

    def report(self) -> PoolReport:
        active = [drafter for drafter in self._pool.drafters if drafter.state is DrafterState.ACTIVE]
        counting = [drafter for drafter in active if drafter.type in COUNT_BASED]
        for drafter in counting:
            self._look_up(drafter)
        if self._drafts:
            with self._pool.handling():
                self._choose(counting)
        for drafter in active:
            if drafter.type not in COUNT_BASED:
                free = [index for index, first in enumerate(self._forced) if not first]  # a head ignores `ahead`
                worth = {index: tokens for index in free if (tokens := self._tokens_worth(drafter, index)) > 0}
                if worth:
                    self._ask(drafter, worth, opportunities=worth)
                    with self._pool.handling():
                        self._choose([drafter])
        followed = self._go_on(counting)
        with self._pool.handling():
            proposals = tuple(
                self._after_forced(index, self._composed(index, followed.get(index)))
                if index in self._best or self._forced[index]
                else NOTHING
                for index in range(len(self._sequences))
            )
        return PoolReport(
            proposals=proposals,
            asked=self._asked,
            proposed=self._proposed,
            seconds=self._seconds,
            asked_by_sequence=tuple(self._asked_of),
        )

    def silence(self, report: PoolReport) -> Silence | None:
        """After `report`: what lasts, where nobody was asked."""
        if self._drafts or self._bound or any(self._forced) or any(scores.pending for scores in self._scores):
            return None
        drafters = [*map(_who_may, self._caps)]
        return Silence(sequences=[*self._sequences], drafters=drafters, watch=[*self._watch], report=report)

    def _look_up(self, drafter: Drafter) -> None:
        """Ask a count-based one where it may draft and that is worth it; elsewhere watch it, if it is to be watched."""
        price = self._pool.price(drafter, batch=len(self._sequences))
        allowed: list[int] = []
        due: dict[int, int] = {}
        held: list[int] = []
        for index, caps in enumerate(self._caps):
            cap = caps.get(drafter.name, 0)
            if cap > 0:
                allowed.append(index)
                if self._is_due(index, drafter.name, price):
                    due[index] = cap
            elif self._watch[index] > 0 and not self._forced[index]:
                held.append(index)
        self._ask(drafter, due, opportunities=allowed)
        self._watch_held(drafter, [index for index in held if self._is_watchable(drafter, index, price)])

    def _ask(self, drafter: Drafter, tokens: Mapping[int, int], *, opportunities: Collection[int]) -> None:
        """`tokens`: most draft tokens, of whom is asked for. `opportunities`: who counts as asked for.

        One for whom asking isn't worth it now has no proposal, that is all.
        """
        if not opportunities:
            return
        drafts, seconds = self._answers(drafter, tokens)
        for index in opportunities:
            self._asked_of[index] += (drafter.name,)
        for index, draft in zip(tokens, drafts, strict=True):
            self._drafts.setdefault(index, {})[drafter.name] = draft
        self._asked[drafter.name] = len(opportunities)
        self._proposed[drafter.name] = sum(bool(draft.token_ids) for draft in drafts)
        self._seconds[drafter.name] = seconds

    def _answers(self, drafter: Drafter, tokens: Mapping[int, int]) -> tuple[Sequence[Draft], float]:
        if not tokens:
            return (), 0.0
        return self._pool.propose(drafter, [self._context(drafter, index, most) for index, most in tokens.items()])

    def _context(self, drafter: Drafter, index: int, cap: int) -> DraftContext:
        sequence, ahead = self._sequences[index], self._forced[index]
        if drafter.type in COUNT_BASED and not ahead:
            return self._pool.text_of(sequence, cap)
        return context_of(sequence, cap, ahead=ahead)

    def _watch_held(self, drafter: Drafter, held: Sequence[int]) -> None:
        """Ask one that is held at 0."""
        if not held:
            return
        drafts, _ = self._pool.propose(drafter, [self._context(drafter, index, self._watch[index]) for index in held])
        for index, draft in zip(held, drafts, strict=True):
            sequence = self._sequences[index]
            candidate = self._pool.candidate(drafter, drafter.name, draft, others=(), sequence=sequence)
            self._scores[index].keep(drafter.name, _pending(candidate, sequence, is_watched=True))

    def _is_watchable(self, drafter: Drafter, index: int, price: float) -> bool:
        """Of a count-based one that is held at 0: no earlier draft of it waits for the text."""
        return drafter.name not in self._scores[index].pending and self._is_due(index, drafter.name, price)

    def _is_due(self, index: int, slot: str, price: float) -> bool:
        """Of a count-based one. `slot`: its name, with AHEAD for what follows another drafter's tokens."""
        record = self._scores[index].records.get(slot) or self._pool.record(slot, self._sequences[index])
        return self._pool.sampling.is_due or index in self._bound or record.worth >= price

    def _tokens_worth(self, drafter: Drafter, index: int) -> int:
        """For how many tokens a costly one is asked; 0 where it isn't."""
        cap, best = self._caps[index].get(drafter.name, 0), self._best.get(index)
        is_bound = index in self._bound
        if cap == 0 or (is_bound and best is None):
            return cap
        lengths = range(cap if is_bound else 1, cap + 1)
        worth = self._worth_asking(drafter, lengths, fortune=self._scores[index].fortune(drafter.name).bucket)
        return worth.draft_tokens if worth.gain > (0.0 if best is None else best.gain) else 0

    def _worth_asking(self, drafter: Drafter, lengths: range, *, fortune: int) -> WorthAsking:
        """Kept for the step: a batch's sequences that fared alike get one answer."""
        key = (drafter.name, lengths, fortune)
        if key not in self._worth:
            self._worth[key] = self._pool.draft_worth_asking(
                drafter, lengths, fortune=fortune, batch=len(self._sequences)
            )
        return self._worth[key]

    def _choose(self, drafters: Sequence[Drafter]) -> None:
        for index, drafts in self._drafts.items():
            sequence = self._sequences[index]
            for drafter in drafters:
                draft = drafts.get(drafter.name)
                if draft is None:
                    continue
                if not draft.token_ids:
                    if drafter.type in COUNT_BASED:
                        self._note_silence(drafter.name, index)
                    continue
                others = [other.token_ids for name, other in drafts.items() if name != drafter.name]
                first = self._forced[index]
                candidate = self._pool.candidate(
                    drafter, drafter.name, draft, others=others, sequence=sequence, first=len(first)
                )
                whole = replace(candidate, token_ids=first + candidate.token_ids) if first else candidate
                self._scores[index].keep(drafter.name, _pending(whole, sequence, skipped=len(first)))
                best = self._best.get(index)
                if best is None or candidate.gain > best.gain:
                    self._best[index] = candidate

    def _note_silence(self, slot: str, index: int) -> None:
        if slot not in self._scores[index].pending:
            self._pool.record(slot, self._sequences[index]).add(0)

    def _after_forced(self, index: int, proposal: Proposal) -> Proposal:
        first = self._forced[index]
        if not first:
            return proposal
        candidate, sequence = self._pool.forced_candidate(first), self._sequences[index]
        self._scores[index].keep(NOBODY, _pending(candidate, sequence))
        survivals = candidate.survivals
        return Proposal(
            token_ids=first + proposal.token_ids,
            sources=(NOBODY,) * len(first) + proposal.sources,
            survivals=survivals + tuple(survivals[-1] * survival for survival in proposal.survivals),
        )

    def _go_on(self, counting: Sequence[Drafter]) -> dict[int, Candidate]:
        """What count-based drafters, the first that has anything to say, have after a costly one's tokens.

        Asked where what it brought there in this sequence is worth looking up, as at the beginning of a draft.
        """
        names = {drafter.name for drafter in counting}
        open_ends = {index: best for index, best in self._best.items() if best.drafter not in names}
        followed: dict[int, Candidate] = {}
        for drafter in counting:
            price = self._pool.price(drafter, batch=len(self._sequences))
            rooms = {
                index: room
                for index, best in open_ends.items()
                if index not in followed
                and (room := self._caps[index].get(drafter.name, 0) - len(best.token_ids)) > 0
                and self._is_due(index, drafter.name + AHEAD, price)
            }
            if rooms:
                self._follow(drafter, rooms, followed)
        return followed

    def _follow(self, drafter: Drafter, rooms: Mapping[int, int], followed: dict[int, Candidate]) -> None:
        """Ask one for up to so many tokens after the best draft so far; what it says goes into `followed`."""
        name = drafter.name + AHEAD
        contexts = [
            context_of(self._sequences[index], room, ahead=self._best[index].token_ids) for index, room in rooms.items()
        ]
        drafts, seconds = self._pool.propose(drafter, contexts)
        self._seconds[drafter.name] = self._seconds.get(drafter.name, 0.0) + seconds
        with self._pool.handling():
            for index, draft in zip(rooms, drafts, strict=True):
                if not draft.token_ids:
                    self._note_silence(name, index)
                    continue
                best, sequence = self._best[index], self._sequences[index]
                length = len(best.token_ids)
                more = self._pool.candidate(drafter, name, draft, others=(), sequence=sequence, first=length)
                both = replace(more, token_ids=best.token_ids + more.token_ids)
                self._scores[index].keep(name, _pending(both, sequence, skipped=length))
                followed[index] = more

    def _composed(self, index: int, more: Candidate | None) -> Proposal:
        best = self._best.get(index)
        if best is None:
            return NOTHING
        proposal = Proposal(
            token_ids=best.token_ids, sources=(best.drafter,) * len(best.token_ids), survivals=best.survivals
        )
        if more is None:
            return proposal
        return Proposal(
            token_ids=best.token_ids + more.token_ids,
            sources=proposal.sources + (more.drafter,) * len(more.token_ids),
            survivals=best.survivals + tuple([best.survivals[-1] * s for s in more.survivals]),
        )


def forced_of(
    sequences: Sequence[LiveSequence],
    caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
) -> list[tuple[int, ...]]:
    """Per sequence, what its grammar leaves no choice about, as far as anybody may draft."""
    return [
        () if sequence.grammar is None else sequence.forced(max(by_drafter.values(), default=0))
        for sequence, by_drafter in zip(sequences, caps, strict=True)
    ]


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


def _who_may(caps: Mapping[str, int]) -> tuple[str, ...]:
    return tuple([name for name, cap in caps.items() if cap > 0])


def _pending(candidate: Candidate, sequence: LiveSequence, *, skipped: int = 0, is_watched: bool = False) -> Pending:
    return Pending(candidate=candidate, start=len(sequence.token_ids), skipped=skipped, is_watched=is_watched)
