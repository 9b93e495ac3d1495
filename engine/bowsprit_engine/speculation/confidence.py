"""How likely a drafted token is to match, given that all before it do: a drafter's word, corrected by what happened.

Decides by counts of drafts alike (who drafted, how sure it was, how far out, whether another drafter agrees, how this
sequence's drafts have fared), with forgetting, each leaning on the next coarser counts. Pure arithmetic; refuses to
know sequences, tokens and step times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

HALF_LIFE_TOKENS = 500
KEEP = 0.5 ** (1 / HALF_LIFE_TOKENS)
LEAN = 8.0  # so many tokens' worth of belief has what the coarser counts say
RAW_TRUST = 0.5  # of a drafter's own word, before anything is known; the rest is the prior of its type
CONFIDENCE_BUCKETS = 8
POSITION_LIMITS = (0, 1, 3, 7)
FORTUNE_KEEP = 0.9  # per judged token
FORTUNE_BUCKETS = 5


@dataclass(frozen=True, slots=True)
class TokenKind:
    """What drafted tokens have in common. `sureness`: bucket of the drafter's own confidence, None without one.

    `agreement`: whether another drafter proposed the same up to here, None where none proposed as far. `fortune`:
    bucket of how this drafter has fared in this sequence.
    """

    drafter: str
    position: int  # bucket
    sureness: int | None
    agreement: bool | None
    fortune: int


@dataclass(slots=True)
class Rate:
    """Matched and judged tokens, the latest weighing most."""

    matched: float = 0.0
    judged: float = 0.0

    def count(self, *, matched: bool, keep: float) -> None:
        """One token more; what was counted before keeps so much of its weight."""
        self.matched = self.matched * keep + matched
        self.judged = self.judged * keep + 1.0

    def leaning(self, belief: float, *, lean: float) -> float:
        """The rate, with `lean` tokens' worth of `belief` in it."""
        return (self.matched + lean * belief) / (self.judged + lean)


@dataclass(slots=True)
class Fortune(Rate):
    """Of one drafter in one sequence."""

    matched: float = 1.0
    judged: float = 2.0

    def add(self, *, matched: bool) -> None:
        self.count(matched=matched, keep=FORTUNE_KEEP)

    @property
    def bucket(self) -> int:
        """A fifth of [0, 1]."""
        return min(FORTUNE_BUCKETS - 1, int(self.matched / self.judged * FORTUNE_BUCKETS))


@cache
def position_bucket(position: int) -> int:
    """0, 1, 2 to 3, 4 to 7, and beyond."""
    return next((index for index, limit in enumerate(POSITION_LIMITS) if position <= limit), len(POSITION_LIMITS))


def sureness_bucket(confidence: float | None) -> int | None:
    """An eighth of [0, 1]; what is no number is the lowest."""
    if confidence is None:
        return None
    return min(CONFIDENCE_BUCKETS - 1, int(confidence * CONFIDENCE_BUCKETS)) if confidence > 0 else 0


class Calibrator:
    """Counts of judged tokens. Used by the engine's thread only."""

    def __init__(self) -> None:
        self._rates: dict[object, Rate] = {}

    def probability(self, kind: TokenKind, *, prior: float) -> float:
        """P(such a token matches | all before it do). `prior`: of the drafter's type, where nothing is known."""
        value = prior
        if kind.sureness is not None:
            value += RAW_TRUST * ((kind.sureness + 0.5) / CONFIDENCE_BUCKETS - prior)
        for key in _coarse_to_fine(kind):
            rate = self._rates.get(key)
            if rate is not None:
                value = rate.leaning(value, lean=LEAN)
        return value

    def learn(self, kind: TokenKind, *, matched: bool) -> None:
        """A token of this kind was reached and judged."""
        for key in _coarse_to_fine(kind):
            self._rates.setdefault(key, Rate()).count(matched=matched, keep=KEEP)

    def forget(self, drafter: str) -> None:
        """A drafter was swapped: what is known of it is void."""
        self._rates = {key: rate for key, rate in self._rates.items() if _drafter_of(key) != drafter}


def _coarse_to_fine(kind: TokenKind) -> tuple[object, ...]:
    return (
        (kind.drafter, kind.sureness),
        (kind.drafter, kind.sureness, kind.fortune),
        (kind.drafter, kind.sureness, kind.fortune, kind.agreement),
        kind,
    )


def _drafter_of(key: object) -> str:
    return key.drafter if isinstance(key, TokenKind) else str(key[0]) if isinstance(key, tuple) else ""
