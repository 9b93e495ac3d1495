"""The ledger's definition: beliefs by counts (beliefs.py), drafts that wait for the text (scoring.py), a step's choice.

Decides which draft of a sequence is the best (by expected tokens net of its rows) and what its proposal is made of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.beliefs import Beliefs
from bowsprit_engine.speculation.composing import proposal_of
from bowsprit_engine.speculation.costly import Wish, whom_to_ask
from bowsprit_engine.speculation.drafters.base import Draft, Drafter
from bowsprit_engine.speculation.ledger import Answers, CallPrice
from bowsprit_engine.speculation.proposal import AHEAD, NOTHING, Proposal
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Candidate, Pending, Scores, SequenceScores, Watched
from bowsprit_policy.wire import COUNT_BASED

NO_STEP = Question(sequences=(), caps=(), watch=(), forced=(), bound=frozenset(), row_price=0.0)


class LedgerInPython:
    """A `Ledger`."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self.beliefs = Beliefs(drafters)
        self.scores = Scores()
        self._question = NO_STEP
        self._scores: list[SequenceScores] = []
        self._counting = frozenset(drafter.name for drafter in drafters if drafter.type in COUNT_BASED)

    def begin_step(self, question: Question) -> None:
        self._question = question
        self._scores = [self.scores.of(sequence) for sequence in question.sequences]
        self._drafts: dict[int, dict[str, Draft]] = {}
        self._best: dict[int, Candidate] = {}
        self._found: dict[int, Candidate] = {}

    def due(self, slot: str, indices: Sequence[int], *, price: float) -> Collection[int]:
        records = [self.scores.record(slot, self._question.sequences[index]) for index in indices]
        return {index for index, record in zip(indices, records, strict=True) if record.worth >= price}

    def not_waiting(self, slot: str, indices: Sequence[int]) -> Sequence[int]:
        return [index for index in indices if slot not in self._scores[index].pending]

    def watch(self, answers: Answers) -> None:
        drafter = answers.drafter
        for index, draft in answers.drafts.items():
            candidate = self._candidate(drafter, draft, index, others=())
            pending = Pending.of(candidate, self._question.sequences[index], is_watched=True)
            self._scores[index].keep(drafter.name, pending)

    def take(self, answers: Sequence[Answers]) -> None:
        for drafter, drafts in answers:
            for index, draft in drafts.items():
                self._drafts.setdefault(index, {})[drafter.name] = draft
        for drafter, drafts in answers:
            for index, draft in drafts.items():
                self._weigh(drafter, draft, index)

    def _weigh(self, drafter: Drafter, draft: Draft, index: int) -> None:
        sequence, first, scores = self._question.sequences[index], self._question.forced[index], self._scores[index]
        if not draft.token_ids:
            if drafter.name in self._counting and drafter.name not in scores.pending:
                self.scores.record(drafter.name, sequence).add(0)
            return
        others = [other.token_ids for name, other in self._drafts[index].items() if name != drafter.name]
        candidate = self._candidate(drafter, draft, index, others=others)
        whole = replace(candidate, token_ids=first + candidate.token_ids) if first else candidate
        scores.keep(drafter.name, Pending.of(whole, sequence, skipped=len(first)))
        if drafter.name not in self._counting:
            self.beliefs.heard(
                candidate,
                num_drafted=len(draft.token_ids),
                fortune=scores.fortune(drafter.name).bucket,
                row_price=self._question.row_price,
                had=self._had(index),
            )
        if index not in self._best or candidate.gain > self._best[index].gain:
            self._best[index] = candidate

    def _candidate(self, drafter: Drafter, draft: Draft, index: int, *, others: Sequence[Sequence[int]]) -> Candidate:
        return self.beliefs.candidate(
            drafter,
            drafter.name,
            draft,
            others=others,
            fortune=self._scores[index].fortune(drafter.name).bucket,
            row_price=self._question.row_price_of(index),
            first=len(self._question.forced[index]),
        )

    def whom_to_ask(self, drafter: Drafter, caps: Mapping[int, int], price: CallPrice) -> Mapping[int, int]:
        certain = {i: cap for i, cap in caps.items() if i in self._question.bound and i not in self._best}
        gains = [self._best[index].gain for index in sorted(self._best)]
        worth = whom_to_ask(
            self._wishes(drafter, {index: cap for index, cap in caps.items() if index not in certain}),
            call=lambda tokens: price.call[tokens],
            each=price.each,
            step_tokens=len(self._question.sequences) + reduce(add, gains, 0.0),
            at_least=max(certain.values(), default=0),
        )
        return dict(sorted((certain | worth).items()))

    def _wishes(self, drafter: Drafter, caps: Mapping[int, int]) -> list[Wish]:
        """One for each of these sequences; who is bound wants as many tokens as it may have, or none."""
        wishes = []
        for index, cap in caps.items():
            if self._had(index) >= cap:
                continue  # it can't bring more than that
            added = self.beliefs.added(
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

    def open_ends(self) -> Mapping[int, tuple[int, ...]]:
        return {i: best.token_ids for i, best in sorted(self._best.items()) if best.drafter not in self._counting}

    def follow(self, answers: Answers) -> Collection[int]:
        drafter, name = answers.drafter, answers.drafter.name + AHEAD
        found = []
        for index, draft in answers.drafts.items():
            best, sequence, scores = self._best[index], self._question.sequences[index], self._scores[index]
            if not draft.token_ids:
                if name not in scores.pending:
                    self.scores.record(name, sequence).add(0)
                continue
            more = self.beliefs.candidate(
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
            self._found[index] = more
            found.append(index)
        return found

    def proposals(self) -> tuple[Proposal, ...]:
        made = [
            proposal_of(self._forced(index), self._best.get(index), self._found.get(index))
            if index in self._best or self._question.forced[index]
            else NOTHING
            for index in range(len(self._question.sequences))
        ]
        self._question = NO_STEP  # texts end with their sequences
        return tuple(made)

    def _forced(self, index: int) -> Candidate | None:
        token_ids = self._question.forced[index]
        if not token_ids:
            return None
        candidate = self.beliefs.forced(token_ids)
        self._scores[index].keep(candidate.drafter, Pending.of(candidate, self._question.sequences[index]))
        return candidate

    def is_waiting(self) -> bool:
        return any(scores.pending for scores in self._scores)

    def grant(self, sequences: Sequence[LiveSequence], proposals: Sequence[Proposal]) -> None:
        for sequence, proposal in zip(sequences, proposals, strict=True):
            scores = self.scores.known(sequence)
            if scores is not None and scores.pending:
                scores.grant(proposal, start=len(sequence.token_ids))

    def waits_for(self, sequence: LiveSequence) -> bool:
        scores = self.scores.known(sequence)
        return scores is not None and bool(scores.pending)

    def learn(self, sequence: LiveSequence) -> Sequence[Watched]:
        return self.scores.of(sequence).score(sequence.token_ids, self.beliefs.learners)

    def forget(self, sequence: LiveSequence) -> Sequence[Watched]:
        scores = self.scores.known(sequence)
        self.scores.drop(sequence)
        return () if scores is None else scores.score(sequence.token_ids, self.beliefs.learners, at_end=True)

    def void(self, slots: Iterable[str]) -> None:
        for slot in slots:
            self.beliefs.forget(slot)
            self.scores.void(slot)
