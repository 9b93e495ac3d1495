"""No text is at more places of an expression at once than were counted, and ordinary expressions are not costly."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.server.expressions import size_of

MOST_SETS = 400  # of places, that a search looks at


@dataclass(frozen=True)
class Characters:
    among: str


@dataclass(frozen=True)
class Concatenation:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternation:
    branches: tuple[Node, ...]


@dataclass(frozen=True)
class Repetition:
    """`most` None: any number."""

    part: Node
    least: int
    most: int | None


Node = Characters | Concatenation | Alternation | Repetition


def several(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[tuple[Node, ...]]:
    return st.lists(nodes, min_size=2, max_size=3).map(tuple)


def repeated(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    bounds = st.tuples(st.integers(0, 4), st.integers(0, 3) | st.none())
    return st.builds(
        lambda part, bounds: Repetition(part, bounds[0], None if bounds[1] is None else max(1, sum(bounds))),
        nodes,
        bounds,
    )


EXPRESSIONS = st.recursive(
    st.sampled_from([Characters("a"), Characters("b"), Characters("ab")]),
    lambda nodes: st.builds(Concatenation, several(nodes)) | st.builds(Alternation, several(nodes)) | repeated(nodes),
    max_leaves=8,
)


def text_of(node: Node) -> str:
    match node:
        case Characters(among):
            return f"[{among}]"
        case Concatenation(parts):
            return "".join(f"({text_of(part)})" if isinstance(part, Alternation) else text_of(part) for part in parts)
        case Alternation(branches):
            return "|".join(map(text_of, branches))
        case Repetition(part, least, most):
            inner = text_of(part) if isinstance(part, Characters) else f"({text_of(part)})"
            return f"{inner}{{{least},{'' if most is None else most}}}"


class Places:
    """Glushkov's automaton: a place for each character of the expression, repetitions written out."""

    def __init__(self, node: Node) -> None:
        self.among: list[str] = []
        self.after: dict[int, set[int]] = defaultdict(set)
        _, self.first, _ = self._built(node)

    def _built(self, node: Node) -> tuple[bool, set[int], set[int]]:
        """Whether it may be empty, its first and its last places."""
        match node:
            case Characters(among):
                self.among.append(among)
                place = len(self.among) - 1
                return False, {place}, {place}
            case Concatenation(parts):
                return self._chained([(part, False) for part in parts], least=len(parts))
            case Alternation(branches):
                built = [self._built(branch) for branch in branches]
                return (
                    any(empty for empty, _, _ in built),
                    set().union(*(first for _, first, _ in built)),
                    set().union(*(last for _, _, last in built)),
                )
            case Repetition(part, least, most):
                copies = max(1, least if most is None else most)
                return self._chained([(part, most is None and index == copies - 1) for index in range(copies)], least)

    def _chained(self, parts: list[tuple[Node, bool]], least: int) -> tuple[bool, set[int], set[int]]:
        """One after another; what comes behind the first `least` may be left out from the end. True: a loop."""
        begins, ends, reached = set[int](), set[int](), set[int]()
        all_empty, may_be_empty = True, least == 0
        for index, (part, loops) in enumerate(parts):
            empty, first, last = self._built(part)
            for place in last if loops else ():
                self.after[place] |= first
            for place in reached:
                self.after[place] |= first
            begins |= first if all_empty else set()
            reached = reached | last if empty else last
            ends |= reached if index >= least - 1 else set()
            all_empty &= empty
        return may_be_empty or all_empty, begins, ends

    def most_at_once(self) -> int:
        """Over the texts of a and b, as far as the search comes."""
        start = frozenset([-1])
        seen, todo, most = {start}, [start], 1
        while todo and len(seen) < MOST_SETS:
            places = todo.pop()
            following = set().union(*(self.first if place < 0 else self.after[place] for place in places))
            for character in "ab":
                reached = frozenset(place for place in following if character in self.among[place])
                if reached and reached not in seen:
                    seen.add(reached)
                    todo.append(reached)
                    most = max(most, len(reached))
        return most


@given(EXPRESSIONS)
@settings(max_examples=300, deadline=None)
def test_no_text_is_at_more_places_than_were_counted(node: Node) -> None:
    """One place is where every text is; the others are open."""
    places = Places(node)
    if len(places.among) <= 80:
        assert places.most_at_once() <= 1 + size_of(text_of(node), is_anchored=True).num_open


@pytest.mark.parametrize(
    ("pattern", "num_open"),
    [
        (r"^\+?[0-9]{10,15}$", 2),
        (r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$", 5),
        (r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$", 8),
        (r"^https?://[^\s/$.?#].[^\s]*$", 2),
        (r"^#?([a-f0-9]{6}|[a-f0-9]{3})$", 5),
        (r"\d{4}-\d{2}-\d{2}", 10),
        (r"^a?b{1,4}c{5}$", 7),  # two of the b, five of the c: by then there are five lengths
    ],
)
def test_what_is_ordinary_has_few_open_places(pattern: str, num_open: int) -> None:
    """A sign that may be there puts a text at two places of all that follows, not everywhere in it."""
    assert size_of(pattern, is_anchored=False).num_open == num_open


@pytest.mark.parametrize(("pattern", "is_costly"), [("(.*[a-m].{13}[^b])*", False), ("(.*[a-m].{14}[^b])*", True)])
def test_an_expression_is_costly_from_17_open_places_on(pattern: str, is_costly: bool) -> None:
    """Beyond, a mask takes more than a costly grammar may."""
    assert size_of(pattern, is_anchored=True).is_costly == is_costly
