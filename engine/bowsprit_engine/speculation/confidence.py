"""How likely a drafted token is to match, given that all before it do: a drafter's word, corrected by what happened.

Decides by counts of drafts alike (who drafted, how sure it was, how far out, whether another drafter agrees, how this
sequence's drafts have fared), with forgetting, each leaning on the next coarser counts, and the coarsest on what the
drafter's word came to so far, of whatever kind. Pure arithmetic; refuses to know sequences, tokens and step times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

HALF_LIFE_TOKENS = 500
FORESIGHT_HALF_LIFE_TOKENS = 64  # a head that isn't worth asking is judged by rare probes: they must soon be believed
LEAN = 8.0  # so many tokens' worth of belief has what the coarser counts say
RAW_TRUST = 0.5  # of a drafter's own word, before anything is known; the rest is the prior of its type
WORD_LEAN = 4.0  # so many promised matches' worth of belief has what is believed of a drafter's word at first
CONFIDENCE_BUCKETS = 8
POSITION_LIMITS = (0, 1, 3, 7)
FORTUNE_KEEP = 0.9  # per judged token
FORTUNE_BUCKETS = 5


class TokenKind(NamedTuple):
    """What drafted tokens have in common. `sureness`: bucket of the drafter's own confidence, None without one.

    `agreement`: whether another drafter proposed the same up to here, None where none proposed as far. `fortune`:
    bucket of how this drafter has fared in this sequence. A tuple, since every drafted token of every step has one.
    """

    drafter: str
    position: int  # bucket
    sureness: int | None
    agreement: bool | None
    fortune: int


class Learns(Protocol):
    """Who is told what became of drafted tokens."""

    def learn(self, kind: TokenKind, *, matched: bool, prior: float) -> None:
        """A token of this kind was reached and judged. `prior`: as it was asked for with."""


@dataclass(slots=True)
class Rate:
    """Matched and judged tokens, the latest weighing most."""

    matched: float = 0.0
    judged: float = 0.0

    def count(self, *, matched: float, keep: float) -> None:
        """One more; what was counted before keeps so much of its weight."""
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


@dataclass(slots=True)
class Word:
    """What a drafter promised, in matches, as it is believed where nothing is known, and how many came."""

    promised: float = 0.0
    came: float = 0.0

    def count(self, *, promised: float, came: float, keep: float) -> None:
        """One more token."""
        self.promised = self.promised * keep + promised
        self.came = self.came * keep + came

    def share_kept(self, trust: float) -> float:
        """At most all: one that is better than its word is believed by the counts of its kinds. `trust`: at first."""
        return min(1.0, (self.came + WORD_LEAN * trust) / (self.promised + WORD_LEAN))


@cache
def position_bucket(position: int) -> int:
    """0, 1, 2 to 3, 4 to 7, and beyond."""
    return next((index for index, limit in enumerate(POSITION_LIMITS) if position <= limit), len(POSITION_LIMITS))


def sureness_bucket(confidence: float | None) -> int | None:
    """An eighth of [0, 1]; what is no number is the lowest."""
    if confidence is None:
        return None
    if confidence >= 1:
        return CONFIDENCE_BUCKETS - 1
    return int(confidence * CONFIDENCE_BUCKETS) if confidence > 0 else 0


class Calibrator:
    """Counts of judged tokens. Used by the engine's thread only."""

    def __init__(self, *, half_life_tokens: float = HALF_LIFE_TOKENS, has_words: bool = True) -> None:
        """`has_words`: whether what drafters promised of whatever kind tells of kinds that weren't judged yet."""
        self._has_words = has_words
        self._keep = 0.5 ** (1 / half_life_tokens)
        self._rates: dict[tuple[object, ...], Rate] = {}
        self._words: dict[str, Word] = {}  # by drafter
        self._levels: dict[TokenKind, tuple[Rate, ...]] = {}  # of each kind, the coarsest first
        # By prior and trust too, since anything was learned.
        self._values: dict[tuple[TokenKind, float, float], float] = {}

    def probability(self, kind: TokenKind, *, prior: float, trust: float = 1.0) -> float:
        """P(such a token matches | all before it do). `prior`: of the drafter's type, where nothing is known.

        `trust`: share of the drafter's word that is believed before any of it was judged. What was computed since the
        last token was learned is kept: the kinds of a step are few.
        """
        value = self._values.get((kind, prior, trust))
        if value is None:
            value = self._values[kind, prior, trust] = self._leaning(kind, prior, trust)
        return value

    def learn(self, kind: TokenKind, *, matched: bool, prior: float) -> None:
        """A token of this kind was reached and judged."""
        if self._has_words:
            self._word(kind.drafter).count(promised=_promise(kind, prior), came=matched, keep=self._keep)
        for rate in self._levels_of(kind):
            rate.count(matched=matched, keep=self._keep)
        self._values.clear()

    def is_proven(self, drafter: str) -> bool:
        """Whether its word is what it came to, rather than what is believed of it at first."""
        return self._word(drafter).promised >= WORD_LEAN

    def forget(self, drafter: str) -> None:
        """A drafter was swapped: what is known of it is void."""
        self._words.pop(drafter, None)
        self._rates = {key: rate for key, rate in self._rates.items() if key[0] != drafter}
        self._levels = {kind: levels for kind, levels in self._levels.items() if kind.drafter != drafter}
        self._values.clear()

    def _leaning(self, kind: TokenKind, prior: float, trust: float) -> float:
        value = _promise(kind, prior)
        if self._has_words:
            value *= self._word(kind.drafter).share_kept(trust)
        for rate in self._levels_of(kind):
            value = rate.leaning(value, lean=LEAN)  # of nothing judged: the value itself
        return value

    def _word(self, drafter: str) -> Word:
        word = self._words.get(drafter)
        if word is None:
            word = self._words[drafter] = Word()
        return word

    def _levels_of(self, kind: TokenKind) -> tuple[Rate, ...]:
        levels = self._levels.get(kind)
        if levels is None:
            levels = tuple(self._rates.setdefault(key, Rate()) for key in _coarse_to_fine(kind))
            self._levels[kind] = levels
        return levels


class Foresight:
    """What drafts that aren't made yet will be worth: of costly drafters, which say how sure they are too late.

    Counts the same tokens as the calibrator, whatever was said of them; a newer record weighs more.
    """

    def __init__(self, drafters: Iterable[str]) -> None:
        self._drafters = frozenset(drafters)
        self.num_learned = 0  # tokens
        self._calibrator = Calibrator(half_life_tokens=FORESIGHT_HALF_LIFE_TOKENS, has_words=False)

    def probabilities(self, drafter: str, *, most: int, fortune: int, prior: float) -> list[float]:
        """P(token i matches | all before it do), for i below `most`. `fortune`: bucket of the drafter's, there."""
        kinds = [TokenKind(drafter, position_bucket(i), None, None, fortune) for i in range(most)]
        return [self._calibrator.probability(kind, prior=prior) for kind in kinds]

    def learn(self, kind: TokenKind, *, matched: bool, prior: float) -> None:
        """As the calibrator's."""
        if kind.drafter in self._drafters:
            self.num_learned += 1
            self._calibrator.learn(kind._replace(sureness=None, agreement=None), matched=matched, prior=prior)

    def forget(self, drafter: str) -> None:
        """As the calibrator's."""
        self._calibrator.forget(drafter)


def _promise(kind: TokenKind, prior: float) -> float:
    """What such a token is believed where nothing is known: half by the drafter's word, half by its type."""
    if kind.sureness is None:
        return prior
    return prior + RAW_TRUST * ((kind.sureness + 0.5) / CONFIDENCE_BUCKETS - prior)


def _coarse_to_fine(kind: TokenKind) -> tuple[tuple[object, ...], ...]:
    return (
        (kind.drafter, kind.sureness),
        (kind.drafter, kind.sureness, kind.fortune),
        (kind.drafter, kind.sureness, kind.fortune, kind.agreement),
        kind,
    )
