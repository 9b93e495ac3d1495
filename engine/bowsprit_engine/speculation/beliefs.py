"""What is believed of drafts, made or not made yet, and of what a grammar forces.

Decides what a draft has in common with earlier ones (confidence.py counts them) and what its tokens gain where rows
have a price: a token gains what it is likelier to match than its row costs. Refuses to know who is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat

from bowsprit_engine.speculation.confidence import (
    Calibrator,
    Foresight,
    Learns,
    TokenKind,
    position_bucket,
    sureness_bucket,
)
from bowsprit_engine.speculation.drafters.base import Draft, Drafter
from bowsprit_engine.speculation.proposal import NOBODY
from bowsprit_engine.speculation.scoring import Candidate, survivals_of
from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_policy.acceptance import PRIORS
from bowsprit_policy.wire import COUNT_BASED

FORCED_PRIOR = 0.95  # P(a forced token matches), before any was judged
AS_EXPECTED = 1  # bucket of the fortune of what nobody drafted


class Beliefs:
    """Of an engine's drafters, by what became of their drafts."""

    def __init__(self, drafters: Iterable[Drafter]) -> None:
        self._calibrator = Calibrator()
        self._foresight = Foresight(drafter.name for drafter in drafters if drafter.type not in COUNT_BASED)
        self.learners: tuple[Learns, ...] = (self._calibrator, self._foresight)

    def candidate(
        self, drafter: Drafter, name: str, draft: Draft, *, others: Sequence[Sequence[int]], fortune: int,
        row_price: float, first: int = 0,
    ) -> Candidate:  # fmt: skip
        """A draft with what is believed of it. `first`: position of its first token in the proposal.

        `name`: whose record it belongs to. `fortune`: bucket of how that fared in the sequence. `others`: what other
        drafters said of the same place.
        """
        confidences = draft.confidences if draft.confidences is not None else repeat(None)
        longest = max(map(len, others), default=0)
        num_agreed = max([num_leading_equal(other, draft.token_ids) for other in others], default=0)
        kinds = tuple(
            [
                TokenKind(
                    name,
                    position_bucket(first + index),
                    sureness_bucket(confidence),
                    index < num_agreed if index < longest else None,
                    fortune,
                )
                for index, (_, confidence) in enumerate(zip(draft.token_ids, confidences, strict=False))
            ]
        )
        return self._believed(
            drafter.name, draft.token_ids, kinds, prior=PRIORS[drafter.type].match, row_price=row_price
        )

    def forced(self, token_ids: tuple[int, ...]) -> Candidate:
        """Tokens that a grammar leaves no choice about: sure but for another cutting of the same text into tokens."""
        kinds = tuple([TokenKind(NOBODY, position_bucket(i), None, None, AS_EXPECTED) for i in range(len(token_ids))])
        return self._believed(NOBODY, token_ids, kinds, prior=FORCED_PRIOR, row_price=0.0)

    def foreseen(self, drafter: Drafter, *, most: int, fortune: int, row_price: float) -> tuple[float, ...]:
        """What a costly drafter's drafts of 1, 2, … `most` tokens would gain, before it is asked."""
        probabilities = self._foresight.probabilities(
            drafter.name, most=most, fortune=fortune, prior=PRIORS[drafter.type].match
        )
        return tuple(accumulate(max(0.0, survival - row_price) for survival in survivals_of(probabilities)))

    def forget(self, name: str) -> None:
        """What is known of drafts under this name is void."""
        for of in (self._calibrator, self._foresight):
            of.forget(name)

    def _believed(
        self, drafter: str, token_ids: tuple[int, ...], kinds: tuple[TokenKind, ...], *, prior: float, row_price: float
    ) -> Candidate:
        survivals = survivals_of(self._calibrator.probabilities(kinds, prior=prior))
        gain = sum([survival - row_price for survival in survivals if survival > row_price])
        return Candidate(drafter=drafter, token_ids=token_ids, kinds=kinds, survivals=survivals, gain=gain)
