"""The engine's drafters as one: what they propose for a step, and what they are told of the text.

Decides the order of a step's drafting. What is believed of drafts, by calibrated probabilities, and what becomes of
each on the emitted text, also at K = 0, is the ledger's matter (ledger.py), who drafts in a step drafting.py's, how
many tokens each may propose policy.py's, how many are verified that of windows.py. Works without a model: sequences
in, their emitted tokens fed back by `learn`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.asking import Sampling
from bowsprit_engine.speculation.contexts import Texts
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafting import Drafting
from bowsprit_engine.speculation.ledger import Ledger
from bowsprit_engine.speculation.ledgers import best_ledger
from bowsprit_engine.speculation.members import Members
from bowsprit_engine.speculation.pool_state import PoolState
from bowsprit_engine.speculation.prices import Prices
from bowsprit_engine.speculation.proposal import AHEAD, PoolReport, Proposal
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_engine.speculation.shadow import Shadows
from bowsprit_engine.speculation.silence import Silence


class DrafterPool:
    """The engine's drafters, in the order in which they are asked."""

    def __init__(
        self,
        drafters: Sequence[Drafter],
        *,
        vocab_size: int,
        clock: Callable[[], float] = lambda: time.perf_counter(),
        ledger: Callable[[Sequence[Drafter]], Ledger] | None = None,
    ) -> None:
        """`clock`: by which asking a drafter is priced, in seconds; a replay may state prices instead.

        `ledger`: what keeps the accounts, if not the best that is there.
        """
        prices = Prices(clock)
        members = Members(drafters, vocab_size=vocab_size, prices=prices)
        self.drafters = members.drafters
        self.shadows = Shadows(vocab_size=vocab_size)
        self.state = PoolState(
            members=members,
            prices=prices,
            ledger=(ledger or best_ledger())(members.drafters),
            texts=Texts(),
            sampling=Sampling(),
        )
        self._silence: Silence | None = None

    def draft(
        self,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
        *,
        watch: Sequence[int] | None = None,  # per sequence: tokens for which a count-based drafter at 0 is scored
        forced: Sequence[tuple[int, ...]] | None = None,  # per sequence: what its grammar leaves no choice about
        bound: Collection[int] = (),  # indices of sequences that are drafted up to their caps whether it pays or not
        row_share: float = 0.0,  # of a step without drafts, what one more row takes
    ) -> PoolReport:
        """Ask the drafters, choose, compose. Nothing that is only watched is proposed; what is forced comes first."""
        state, batch = self.state, len(sequences)
        state.prices.begin_step()
        state.sampling.begin_step(share=state.prices.share_of_look_up(self.drafters, batch=batch))
        first = forced or [()] * batch
        question = Question(
            sequences=sequences,
            caps=[
                {name: max(0, cap - len(ahead)) for name, cap in by_name.items()} if ahead else by_name
                for by_name, ahead in zip(caps, first, strict=True)
            ],
            watch=watch or [0] * batch,
            forced=first,
            bound=frozenset(bound),
            row_price=row_share * batch * state.prices.tokens_per_sequence,
        )
        is_as_before = question.is_free and not state.sampling.is_due
        if is_as_before and self._silence is not None and self._silence.lasts(question):
            return self._silence.report
        drafting = Drafting(state, question)
        report = drafting.report()
        self._silence = Silence.of(question, report) if drafting.is_silent else None
        return report

    def grant(self, sequences: Sequence[LiveSequence], proposals: Sequence[Proposal]) -> None:
        """The step verifies this of what `draft` proposed: what came of it is what a drafter is worth asking for."""
        self.state.prices.note_expected(
            len(sequences) + sum([sum(proposal.survivals) for proposal in proposals]), sequences=len(sequences)
        )
        self.state.ledger.grant(sequences, proposals)

    def learn(self, sequence: LiveSequence) -> Sequence[Watched]:
        """A live sequence has new tokens: score drafts by them and let drafters learn."""
        watched: Sequence[Watched] = ()
        if self.state.ledger.waits_for(sequence):
            with self.state.prices.handling():
                watched = self.state.ledger.learn(sequence)
        self._teach(sequence)
        return watched

    def forget(self, sequence: LiveSequence) -> Sequence[Watched]:
        """The sequence ended: score what is left, and drop what is kept of it."""
        watched = self.state.ledger.forget(sequence)
        self._teach(sequence)
        self.state.texts.drop(sequence)
        self.shadows.forget(sequence)
        self.state.members.forget(sequence.request_id)
        return watched

    def note_step(self, seconds: float, *, is_contended: bool = False) -> None:
        """What a decode step took: the price of drafting is told in steps."""
        self.state.prices.note_step(seconds, is_contended=is_contended)

    def asking(self, name: str, draft_tokens: int) -> float:
        """What it takes to ask a drafter for so many tokens of one sequence, in steps, as far as it was measured."""
        (drafter,) = (drafter for drafter in self.drafters if drafter.name == name)
        return self.state.prices.alone(drafter, draft_tokens)

    @property
    def step_seconds(self) -> float | None:
        """Of a step now, as far as any was measured."""
        return self.state.prices.step_seconds

    def begin_revision(self, name: str) -> None:
        """A drafter was swapped: what is known of it is void."""
        self._silence = None
        self.state.prices.forget(name)
        self.state.ledger.void((name, name + AHEAD))

    def _teach(self, sequence: LiveSequence) -> None:
        if self.state.members.has_learner:
            self.state.members.teach(self.state.texts.of(sequence, 1))
