"""What asking a costly drafter adds to the drafts that are there, before it is asked: what it added in such places.

Its drafts differ in how sure they are, and only those are verified that are likelier to match than their rows cost: a
mean of all of them says too little. Decides by what its answers were believed to bring beyond the best other draft, in
places alike (what a row costs, what the best other draft gains, how the drafter has fared in the sequence), leaning on
what is believed beforehand. Pure arithmetic; refuses to know what asking costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from bowsprit_engine.speculation.confidence import Rate

HALF_LIFE_DRAFTS = 64  # a drafter that isn't worth asking is judged by rare probes: they must soon be believed
LEAN = 4.0  # so many drafts' worth of belief has what the coarser places say
DOUBT = 0.25  # of what is there: of two drafts the one that is believed more is believed too much
HAD_LIMITS = (0.0, 0.25, 0.5, 1.0, 2.0)  # tokens
PRICE_LIMITS = (0.05, 0.2, 0.4)  # tokens


class Place(NamedTuple):
    """Where a drafter might be asked. `price`, `had`, `fortune`: buckets."""

    drafter: str
    price: int
    had: int
    fortune: int

    @property
    def alike(self) -> Place:
        """Whatever the sequence's fortune."""
        return self._replace(fortune=-1)


def place_of(drafter: str, *, row_price: float, had: float, fortune: int) -> Place:
    """`row_price`: tokens that a row costs; `had`: tokens that the best other draft gains."""
    return Place(drafter, bisect_left(PRICE_LIMITS, row_price), bisect_left(HAD_LIMITS, had), fortune)


def added_by(survivals: Sequence[float], *, row_price: float, had: float) -> list[float]:
    """By each token of a draft: what the draft gains net of its rows, beyond what was there, more than without it."""
    added, gain = [], -(1.0 + DOUBT) * had
    for survival in survivals:
        before, gain = gain, gain + max(0.0, survival - row_price)
        added.append(max(0.0, gain) - max(0.0, before))
    return added


class Advantages:
    """Tokens added per draft, by place and by token of the draft; the latest weigh most."""

    def __init__(self) -> None:
        self._keep = 0.5 ** (1 / HALF_LIFE_DRAFTS)
        self._rates: dict[Place, list[Rate]] = {}

    def expected(self, place: Place, beforehand: Sequence[float]) -> list[float]:
        """Tokens that drafts of 1, 2, … would add. `beforehand`: by each token, by a belief of another kind."""
        values = list(beforehand)
        for key in (place.alike, place):
            for index, rate in enumerate(self._rates.get(key, ())[: len(values)]):
                values[index] = rate.leaning(values[index], lean=LEAN)
        return list(accumulate(values))

    def learn(self, place: Place, added: Sequence[float]) -> None:
        """A draft was made there, as long as `added`."""
        for key in (place.alike, place):
            rates = self._rates.setdefault(key, [])
            rates.extend([Rate() for _ in range(len(added) - len(rates))])
            for rate, tokens in zip(rates, added, strict=False):
                rate.count(matched=tokens, keep=self._keep)

    def forget(self, drafter: str) -> None:
        """It was swapped: what is known of it is void."""
        self._rates = {place: rates for place, rates in self._rates.items() if place.drafter != drafter}
