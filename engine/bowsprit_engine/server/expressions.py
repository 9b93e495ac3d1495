"""Regular expressions as callers send them: what they cost, read off their text before anything is built.

Decides which are refused, and which make a grammar costly. Refuses to know schemas and grammars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Positions, of all expressions of a grammar together. Measured: 1,000 cost 0.5 ms for each token of an answer, 10,000
# more than 10 ms.
MAX_POSITIONS = 2_000
# Open positions, of all expressions together, beyond which a grammar is costly. Measured on 49,152 tokens (SmolLM2's)
# with `(.*[ab].{N}[^b])*`, which keeps N of them busy: a mask takes 6 ms for N = 16, 20 for 32, 70 for 64, 190 for 128
# and 2,500 for 500, each time with new states.
MAX_OPEN_POSITIONS = 32

_MOST_COUNTED = 10**9  # positions; Python prints no number of thousands of digits
_COUNT = re.compile(r"\{\s*+(\d*+)\s*+(,\s*+(\d*+)\s*+)?\}")  # possessive: else blanks cost their fourth power
_GROUP = re.compile(r"\((?:\?(?:[a-zA-Z-]*:|P?<\w*>))?")
_CLASS_OPENING = re.compile(r"\[\^?\]?")  # a bracket that comes first is one of the characters


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionSize:
    """`num_positions`: places between which a match moves, counted repetitions written out.

    `num_open`: those of them in which one text may be at once, because what comes before them has no fixed length:
    `.*a.{9}` may be anywhere in its `.{9}`, `^a.{9}` may not. An upper bound, but for loops of different lengths.
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

    `is_after`: what comes before it has no fixed length.
    """

    is_after: bool = False
    size: int = 0
    num_open: int = 0
    is_variable: bool = False  # its branch that is being read, as far as it was read
    is_any_variable: bool = False  # one of the branches before
    branch_begin: int = 0
    lengths: set[int] = field(default_factory=set)  # of the branches before, as far as they are fixed

    def add(self, part: _Part) -> None:
        self.size += part.size
        self.num_open += part.num_open
        self.is_variable |= part.is_variable

    def end_branch(self) -> None:
        self.lengths.add(self.size - self.branch_begin)
        self.branch_begin = self.size
        self.is_any_variable |= self.is_variable
        self.is_variable = False

    def close(self) -> None:
        self.end_branch()
        self.is_variable = self.is_any_variable or len(self.lengths) > 1

    def repeat(self, last: _Part, times: int, *, is_exact: bool) -> None:
        """`last`, already in this part, is there `times` times. Copies of what has no fixed length are open."""
        size = min(_MOST_COUNTED, last.size * times)
        num_open = size if last.is_variable else min(_MOST_COUNTED, last.num_open * times)
        self.size += size - last.size
        self.num_open += num_open - last.num_open
        last.size, last.num_open = size, num_open
        if not is_exact:
            last.is_variable = self.is_variable = True


def size_of(pattern: str, *, is_anchored: bool) -> ExpressionSize:
    """Each number up to a billion. `is_anchored`: it begins where its text does, as it would with ^."""
    groups = [_Part(is_after=not is_anchored and not pattern.startswith("^"))]
    last = _Part()
    index = 0
    while index < len(pattern):
        count = _COUNT.match(pattern, index)
        text = pattern[index]
        if count or text in "*+?":
            index = count.end() if count else index + 1
            times = max(1, min(_MOST_COUNTED, int(count[3] or count[1] or 1))) if count else 1
            groups[-1].repeat(last, times, is_exact=bool(count and count[2] is None))
            index += pattern.startswith("?", index)  # as few as possible: the same text
            continue
        opening = _GROUP.match(pattern, index)
        index = opening.end() if opening else _atom_end(pattern, index)
        if opening:
            groups.append(_Part(is_after=groups[-1].is_after or groups[-1].is_variable))
            last = _Part()
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            last.close()
            groups[-1].add(last)
        elif text == "|":
            groups[-1].end_branch()
            groups[-1].num_open += 1  # each branch may be somewhere
            groups[-1].is_after |= len(groups) == 1 and not is_anchored and not pattern.startswith("^", index)
            last = _Part()
        elif text not in "^$":
            last = _Part(size=1, num_open=int(groups[-1].is_after or groups[-1].is_variable))
            groups[-1].add(last)
    return ExpressionSize(
        num_positions=min(_MOST_COUNTED, sum(group.size for group in groups)),
        num_open=min(_MOST_COUNTED, sum(group.num_open for group in groups)),
    )


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
