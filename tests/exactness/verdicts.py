"""Whether texts come from a known distribution, and whether texts of two requests are independent: values, no asserts.

Each returns the reasons for which it rejects, none for a sound engine. False alarms: ALARM per statistic, whatever the
distribution (chi-square: in the limit of large counts; total variation: at any count). What is found for sure is stated
by `power` and `surely_found`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from scipy import stats

from exactness.toy import EOS, Text

ALARM = 1e-6  # probability that one statistic rejects a sound engine
LEAST_EXPECTED = 5.0  # cells that are expected less often are taken together


def misfits(texts: Sequence[Text], expected: Mapping[Text, float]) -> list[str]:
    """Why these texts aren't drawn from `expected`: impossible ones, chi-square and total variation of whole texts and
    of the tokens at each place."""
    impossible = sorted({text for text in texts if text not in expected})
    if impossible:
        return [f"{impossible[0]} and {len(impossible) - 1} other texts have probability 0"]
    reasons = _distances("whole texts", texts, expected)
    for place in range(max(map(len, expected))):
        seen = [_token_at(text, place) for text in texts]
        marginal: Counter[int] = Counter()
        for text, probability in expected.items():
            marginal[_token_at(text, place)] += probability
        reasons += _distances(f"token {place}", seen, marginal)
    return reasons


def dependences(
    texts: Sequence[Text], expected: Mapping[Text, float], *, lag: int, places: tuple[int, int]
) -> list[str]:
    """Why tokens at two places of requests `lag` apart aren't independent.

    Their pairs against the product of the marginals, over pairs of requests that don't overlap.
    """
    one, other = places
    pairs = [
        (_token_at(texts[first], one), _token_at(texts[first + lag], other))
        for start in range(0, len(texts) - 2 * lag + 1, 2 * lag)
        for first in range(start, start + lag)
    ]
    product: Counter[tuple[int, int]] = Counter()
    for text, probability in expected.items():
        for other_text, other_probability in expected.items():
            product[_token_at(text, one), _token_at(other_text, other)] += probability * other_probability
    return _distances(f"tokens {one} and {other} of requests {lag} apart", pairs, product)


def differences(texts: Sequence[Text], others: Sequence[Text]) -> list[str]:
    """Why two engines didn't answer the same requests alike."""
    unlike = [index for index, (text, other) in enumerate(zip(texts, others, strict=True)) if text != other]
    return [f"{len(unlike)} of {len(texts)} texts differ, the first of seed {unlike[0]}"] if unlike else []


def power(*, effect: float, num_cells: int, count: int) -> float:
    """Probability that the chi-square test finds a distribution q at Cohen's w = sqrt(sum((q - p)^2 / p)) from p."""
    critical = stats.chi2.isf(ALARM, num_cells - 1)
    return float(stats.ncx2.sf(critical, num_cells - 1, count * effect**2))


def surely_found(*, num_cells: int, count: int) -> float:
    """Total variation from p that is missed with probability ALARM at most, in the worst case of uniform cells.

    The distance of the counts is at least that of q in the mean (Jensen) and rarely lower (McDiarmid).
    """
    return 0.5 * math.sqrt((num_cells - 1) / count) + 2 * _deviation(count)


def _distances(name: str, seen: Sequence[object], expected: Mapping[object, float]) -> list[str]:
    counts = Counter(seen)
    cells = _pooled(counts, expected, count=len(seen))
    reasons = []
    if len(cells) > 1:
        observed, probabilities = zip(*cells, strict=True)
        p_value = stats.chisquare(observed, [p * len(seen) for p in probabilities]).pvalue
        if p_value < ALARM:
            reasons.append(f"{name}: chi-square p = {p_value:.1e}")
    distance = 0.5 * sum(abs(counts[cell] / len(seen) - p) for cell, p in expected.items())
    limit = 0.5 * sum(math.sqrt(p * (1 - p) / len(seen)) for p in expected.values()) + _deviation(len(seen))
    if distance > limit:
        reasons.append(f"{name}: total variation {distance:.4f}, the limit is {limit:.4f}")
    return reasons


def _pooled(counts: Counter[object], expected: Mapping[object, float], *, count: int) -> list[tuple[int, float]]:
    """(times seen, probability) per cell; the rare ones together."""
    cells: list[tuple[int, float]] = []
    rare_seen, rare = 0, 0.0
    for cell, probability in sorted(expected.items(), key=lambda entry: -entry[1]):
        if probability * count >= LEAST_EXPECTED:
            cells.append((counts[cell], probability))
        else:
            rare_seen, rare = rare_seen + counts[cell], rare + probability
    return _with_rare(cells, rare_seen, rare, count=count)


def _with_rare(
    cells: Iterable[tuple[int, float]], rare_seen: int, rare: float, *, count: int
) -> list[tuple[int, float]]:
    kept = list(cells)
    if rare * count >= LEAST_EXPECTED or not kept:
        return [*kept, (rare_seen, rare)] if rare > 0 else kept
    seen, probability = kept[-1]
    return [*kept[:-1], (seen + rare_seen, probability + rare)]


def _deviation(count: int) -> float:
    """By how much the distance of `count` draws exceeds its mean with probability ALARM at most (McDiarmid)."""
    return math.sqrt(math.log(1 / ALARM) / (2 * count))


def _token_at(text: Text, place: int) -> int:
    """The token at a place; texts that ended before have the end there too."""
    return text[place] if place < len(text) else EOS
