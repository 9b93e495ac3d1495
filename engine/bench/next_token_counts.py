"""Every continuation of a text that look-up knows, with its probability: what trees of drafts need and chains don't.

Decides by counts of what followed the last 12, 8, 5, 3, 2 and 1 tokens in the sequence itself and in earlier answers,
each kind of case corrected by how often it came true at all positions that were emitted, drafted or not: so chains and
trees of the same text believe the same. A stand-in of the drafters for comparisons; refuses to know steps and costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bowsprit_engine.speculation.confidence import Rate

LENGTHS = (12, 8, 5, 3, 2, 1)  # of contexts, the most telling first
MOST_CANDIDATES = 4  # of one position
KEEP = 0.998  # of what is known of such cases, per case
LEAN = 4.0  # cases' worth of belief has the share of the counts
LESS_TELLING = 0.3  # of its share has a continuation of a shorter context, where a longer one says something else

Counts = dict[tuple[int, ...], dict[int, int]]
Case = tuple[
    str, int, int, int, bool
]  # source, length of the context, share in eighths, total, whether it is the longest


@dataclass(slots=True, kw_only=True)
class Followers:
    """What followed each context in some texts."""

    counts: Counts = field(default_factory=dict)

    def extend(self, text: Sequence[int], begin: int) -> None:
        """Count the tokens of `text` from `begin` on."""
        for index in range(begin, len(text)):
            for length in LENGTHS:
                if length <= index:
                    followers = self.counts.setdefault(tuple(text[index - length : index]), {})
                    followers[text[index]] = followers.get(text[index], 0) + 1


class Lookup:
    """Answers that ended or run, and how far each kind of case is to be believed."""

    def __init__(self) -> None:
        self._answers = Followers()
        self._rates: dict[Case, Rate] = {}

    def candidates(self, own: Followers, text: Sequence[int]) -> list[tuple[int, float]]:
        """The likeliest tokens after `text`, falling; at most `MOST_CANDIDATES` that together are at most certain."""
        best: dict[int, float] = {}
        for case, token, share in self._said(own, text):
            beforehand = share * case[1] / (case[1] + 1.5) * (1.0 if case[4] else LESS_TELLING)
            rate = self._rates.get(case)
            probability = beforehand if rate is None else rate.leaning(beforehand, lean=LEAN)
            best[token] = max(best.get(token, 0.0), probability)
        total = max(1.0, sum(best.values()))
        ranked = sorted(
            ((token, probability / total) for token, probability in best.items()), key=lambda item: -item[1]
        )
        return ranked[:MOST_CANDIDATES]

    def learn(self, own: Followers, text: list[int], new: Sequence[int], *, answer_begins: int) -> None:
        """`text` goes on with `new`: judge what was said of each of these places, then count them."""
        for token in new:
            for case, said, _ in self._said(own, text):
                self._rates.setdefault(case, Rate()).count(matched=said == token, keep=KEEP)
            text.append(token)
            own.extend(text, len(text) - 1)
            self._answers.extend(text[answer_begins:], len(text) - answer_begins - 1)

    def _said(self, own: Followers, text: Sequence[int]) -> list[tuple[Case, int, float]]:
        said = []
        for source, followers in (("own", own.counts), ("answers", self._answers.counts)):
            longest = 0
            for length in LENGTHS:
                known = followers.get(tuple(text[-length:])) if length <= len(text) else None
                if known is None:
                    continue
                longest = longest or length
                total = sum(known.values())
                for token, count in known.items():
                    share = count / total
                    case = (source, length, int(share * 8), min(total, 4), length == longest)
                    said.append((case, token, share))
                if length <= 3 or longest != length:
                    break  # two levels of a source, and no more than one of the least telling
        return said
