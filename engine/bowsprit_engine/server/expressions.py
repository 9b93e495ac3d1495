"""Regular expressions as callers send them: what they cost, read off their text before anything is built.

Decides which are refused, and which make a grammar costly. Refuses to know schemas and grammars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Positions, of all expressions of a grammar together. Measured: 1,000 cost 0.5 ms for each token of an answer, 10,000
# more than 10 ms.
MAX_POSITIONS = 2_000
# Open positions, of all expressions together, beyond which a grammar is costly. Measured on 49,152 tokens (SmolLM2's)
# with `(.*[a-m].{N}[^b])*`, a mask at every token: 10 open positions take 0.6 ms each (8 at most), 15 take 11 (23), 19
# take 17 (31), 32 take 33 (67), which is more than a costly grammar may have. Up to 10 any text has room in a lexer; of
# 15 one of more than 4,500 tokens has none.
MAX_OPEN_POSITIONS = 16

_MOST_COUNTED = 10**9  # positions; Python prints no number of thousands of digits
_COUNT = re.compile(r"\{\s*+(\d*+)\s*+(,\s*+(\d*+)\s*+)?\}")  # possessive: else blanks cost their fourth power
_GROUP = re.compile(r"\((?:\?(?:[a-zA-Z-]*:|P?<\w*>))?")
_BOUNDS: Mapping[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_CLASS_OPENING = re.compile(r"\[\^?\]?")  # a bracket that comes first is one of the characters


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionSize:
    """`num_positions`: places between which a match moves, counted repetitions written out.

    `num_open`: those of them in which one text may be at once, because what comes before them has no fixed length:
    `.*a.{9}` may be anywhere in its `.{9}`, `^a.{9}` may not, and `^a?.{9}` is at two places of it. An upper bound, but
    for loops of different lengths.
    """

    num_positions: int = 0
    num_open: int = 0

    def __add__(self, other: ExpressionSize) -> ExpressionSize:
        return ExpressionSize(
            num_positions=self.num_positions + other.num_positions, num_open=self.num_open + other.num_open
        )

    @property
    def is_costly(self) -> bool:
        return self.num_open > MAX_OPEN_POSITIONS


def total_of(sizes: Iterable[ExpressionSize]) -> ExpressionSize:
    return sum(sizes, ExpressionSize())


@dataclass(slots=True, kw_only=True)
class _Part:
    """A group that is being read, or what a repetition would repeat.

    `spread_before`: by how much the lengths of what may come before it differ. `shortest`, `longest`: of its branch
    that is being read, as far as it was read; when it is closed, of all branches. `run`: open positions that were
    counted since the spread last grew: a text is at no more places of a piece of fixed length than there are lengths.
    """

    spread_before: int = 0
    size: int = 0
    num_open: int = 0
    shortest: int = 0
    longest: int = 0
    run: int = 0
    is_character: bool = False
    branches: list[tuple[int, int]] = field(default_factory=list)  # before this one: shortest, longest

    @property
    def spread(self) -> int:
        return min(_MOST_COUNTED, self.spread_before + self.longest - self.shortest)

    def open_of(self, num_positions: int) -> int:
        """Of so many positions, each one character behind the other, that come next."""
        return max(0, min(num_positions, self.spread + 1 - self.run)) if self.spread else 0

    def add(self, part: _Part) -> None:
        self.size += part.size
        self.num_open += part.num_open
        self.shortest += part.shortest
        self.longest = min(_MOST_COUNTED, self.longest + part.longest)
        self.run = self.run + part.num_open if part.is_character else 0

    def end_branch(self) -> None:
        self.branches.append((self.shortest, self.longest))
        self.shortest = self.longest = self.run = 0

    def close(self) -> None:
        self.end_branch()
        self.shortest = min(shortest for shortest, _ in self.branches)
        self.longest = max(longest for _, longest in self.branches)

    def repeat(self, last: _Part, *, least: int, most: int | None) -> None:
        """`last`, already in this part, is there so many times. Copies of what has no fixed length are open."""
        times = max(1, least if most is None else most)
        size = min(_MOST_COUNTED, last.size * times)
        self.shortest -= last.shortest
        self.longest = max(self.shortest, self.longest - last.longest)
        self.run -= last.num_open if last.is_character else 0
        if last.is_character:
            num_open = self.open_of(times)
        elif last.shortest != last.longest and (times > 1 or most is None):
            num_open = size
        else:
            num_open = min(_MOST_COUNTED, last.num_open * times)
        self.size += size - last.size
        self.num_open += num_open - last.num_open
        last.size, last.num_open = size, num_open
        last.longest = _MOST_COUNTED if most is None else min(_MOST_COUNTED, last.longest * times)
        last.shortest = min(_MOST_COUNTED, last.shortest * least)
        self.shortest += last.shortest
        self.longest = min(_MOST_COUNTED, self.longest + last.longest)
        self.run = self.run + num_open if last.is_character and least == most else 0
        last.is_character = False


def size_of(pattern: str, *, is_anchored: bool) -> ExpressionSize:
    """Each number up to a billion. `is_anchored`: it begins where its text does, as it would with ^."""
    groups = [_Part(spread_before=_spread_at(pattern, 0, is_anchored=is_anchored))]
    last = _Part()
    index = 0
    while index < len(pattern):
        count = _COUNT.match(pattern, index)
        text = pattern[index]
        if count or text in "*+?":
            index = count.end() if count else index + 1
            least, most = _bounds(count) if count else _BOUNDS[text]
            groups[-1].repeat(last, least=least, most=most)
            index += pattern.startswith("?", index)  # as few as possible: the same text
            continue
        opening = _GROUP.match(pattern, index)
        index = opening.end() if opening else _atom_end(pattern, index)
        if opening:
            groups.append(_Part(spread_before=groups[-1].spread))
            last = _Part()
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            last.close()
            groups[-1].add(last)
        elif text == "|":
            groups[-1].end_branch()
            groups[-1].num_open += 1  # each branch may be somewhere
            if len(groups) == 1:
                groups[-1].spread_before = _spread_at(pattern, index, is_anchored=is_anchored)
            last = _Part()
        elif text not in "^$":
            last = _Part(size=1, num_open=groups[-1].open_of(1), shortest=1, longest=1, is_character=True)
            groups[-1].add(last)
    return ExpressionSize(
        num_positions=min(_MOST_COUNTED, sum(group.size for group in groups)),
        num_open=min(_MOST_COUNTED, sum(group.num_open for group in groups)),
    )


def _spread_at(pattern: str, index: int, *, is_anchored: bool) -> int:
    """Of what comes before a branch that begins there: any text, unless it is anchored."""
    return 0 if is_anchored or pattern.startswith("^", index) else _MOST_COUNTED


def _bounds(count: re.Match[str]) -> tuple[int, int | None]:
    """The least and the most of a counted repetition, None for any number."""
    least = min(_MOST_COUNTED, int(count[1] or 0))
    if count[2] is None:
        return least, least
    return least, min(_MOST_COUNTED, int(count[3])) if count[3] else None


def _atom_end(pattern: str, index: int) -> int:
    """Where the character, escape or class at `index` ends. Classes may hold others, as the library reads them."""
    if pattern[index] == "\\":
        return index + 2
    depth = 0
    while index < len(pattern):
        opening = _CLASS_OPENING.match(pattern, index)
        if opening:
            depth += 1
            index = opening.end()
        elif depth and pattern[index] == "\\":
            index += 2
        else:
            depth -= pattern[index] == "]" and depth > 0
            index += 1
        if depth == 0:
            break
    return index
