"""What is believed of drafts, made or not made yet, and of what a grammar forces.

Decides what a draft has in common with earlier ones (confidence.py counts them) and what its tokens gain where rows
have a price: a token gains what it is likelier to match than its row costs. Refuses to know who is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from math import floor

from bowsprit_engine.speculation.advantage import Advantages, added_by, place_of
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
HOPELESS = 0.25  # of a row's price: a token that is likelier not to match than that is never verified
DEAR = 0.2  # tokens that a row costs, from which on none is spent on finding out what a drafter's word is worth
UNPROVEN = 0.5  # of a costly drafter's word, then: its first drafts are judged whether they are verified or not
AS_EXPECTED = 1  # bucket of the fortune of what nobody drafted


class Beliefs:
    """Of an engine's drafters, by what became of their drafts."""

    def __init__(self, drafters: Iterable[Drafter]) -> None:
        self._costly = frozenset(drafter.name for drafter in drafters if drafter.type not in COUNT_BASED)
        self._calibrator = Calibrator()
        self._foresight = Foresight(self._costly)
        self._advantages = Advantages()
        self._added: dict[tuple[str, int, int, float, float], Sequence[float]] = {}  # since anything was learned
        self._num_learned = 0
        self.learners: tuple[Learns, ...] = (self._calibrator, self._foresight)

    def candidate(
        self, drafter: Drafter, name: str, draft: Draft, *, others: Sequence[Sequence[int]], fortune: int,
        row_price: float, first: int = 0,
    ) -> Candidate:  # fmt: skip
        """A draft with what is believed of it. `first`: position of its first token in the proposal.

        `name`: whose record it belongs to. `fortune`: bucket of how that fared in the sequence. `others`: what other
        drafters said of the same place. The draft is cut where it is hopeless to be worth its rows.
        """
        confidences = draft.confidences if draft.confidences is not None else repeat(None)
        longest = max([len(other) for other in others], default=0)
        num_agreed = max([num_leading_equal(other, draft.token_ids) for other in others], default=0)
        probability, prior = self._calibrator.probability, PRIORS[drafter.type].match
        hopeless, trust = HOPELESS * row_price, self._trust(drafter, row_price)
        kinds, survivals = [], []
        survival, gain = 1.0, 0.0
        for index, (_, confidence) in enumerate(zip(draft.token_ids, confidences, strict=False)):
            kind = TokenKind(
                name,
                position_bucket(first + index),
                sureness_bucket(confidence),
                index < num_agreed if index < longest else None,
                fortune,
            )
            survival *= probability(kind, prior=prior, trust=trust)
            kinds.append(kind)
            survivals.append(survival)
            if survival > row_price:
                gain += survival - row_price
            elif survival < hopeless:
                break  # that one is still judged, so that it may become better than it is believed
        return Candidate(
            drafter=drafter.name,
            token_ids=draft.token_ids[: len(kinds)],
            kinds=tuple(kinds),
            survivals=tuple(survivals),
            gain=gain,
            prior=prior,
        )

    def forced(self, token_ids: tuple[int, ...]) -> Candidate:
        """Tokens that a grammar leaves no choice about: sure but for another cutting of the same text into tokens."""
        kinds = tuple([TokenKind(NOBODY, position_bucket(i), None, None, AS_EXPECTED) for i in range(len(token_ids))])
        survivals = survivals_of([self._calibrator.probability(kind, prior=FORCED_PRIOR) for kind in kinds])
        return Candidate(
            drafter=NOBODY,
            token_ids=token_ids,
            kinds=kinds,
            survivals=survivals,
            gain=sum(survivals),
            prior=FORCED_PRIOR,
        )

    def added(self, drafter: Drafter, *, most: int, fortune: int, row_price: float, had: float) -> Sequence[float]:
        """Tokens that a costly drafter's drafts of 1, 2, … `most` would add to the `had` of the best other draft.

        What they added in such places, which begins in good faith, with rows that cost nothing: else what is unknown
        would never be asked. At least what its late matches say: that is the mean, which the sure ones are above.
        """
        key = (drafter.name, most, fortune, _nearest(row_price, parts=100), _nearest(had, parts=10))
        if self._num_learned != self._foresight.num_learned:
            self._num_learned = self._foresight.num_learned
            self._added.clear()
        if key not in self._added:
            self._added[key] = self._expected(drafter, most=most, fortune=fortune, row_price=key[3], had=key[4])
        return self._added[key]

    def _expected(self, drafter: Drafter, *, most: int, fortune: int, row_price: float, had: float) -> Sequence[float]:
        survivals = survivals_of(
            self._foresight.probabilities(drafter.name, most=most, fortune=fortune, prior=PRIORS[drafter.type].match)
        )
        place = place_of(drafter.name, row_price=row_price, had=had, fortune=fortune)
        hoped = self._advantages.expected(place, added_by(survivals, row_price=0.0, had=had))
        least = accumulate(added_by(survivals, row_price=row_price, had=had))
        return [*map(max, hoped, least)]

    def heard(self, candidate: Candidate, *, num_drafted: int, fortune: int, row_price: float, had: float) -> None:
        """A costly drafter's draft was made for a sequence whose best other draft gains `had`.

        `num_drafted`: its tokens before it was cut. What is hopeless adds nothing: left out, far tokens would be worth
        what those of sure drafts are. Where a word is doubted for want of a record nothing is heard of it.
        """
        if row_price > DEAR and not self._calibrator.is_proven(candidate.drafter):
            return
        self._added.clear()
        added = added_by(candidate.survivals, row_price=row_price, had=had)
        self._advantages.learn(
            place_of(candidate.drafter, row_price=row_price, had=had, fortune=fortune),
            added + [0.0] * (num_drafted - len(added)),
        )

    def _trust(self, drafter: Drafter, row_price: float) -> float:
        """In its word, before any of it was judged."""
        return UNPROVEN if row_price > DEAR and drafter.name in self._costly else 1.0

    def forget(self, name: str) -> None:
        """What is known of drafts under this name is void."""
        for of in (self._calibrator, self._foresight, self._advantages):
            of.forget(name)
        self._added.clear()


def _nearest(tokens: float, *, parts: int) -> float:
    """Of whole parts of a token: what is expected of places alike is computed once."""
    return floor(tokens * parts + 0.5) / parts
