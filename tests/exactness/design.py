"""Which combinations are tried: every pair of levels of any two factors meets in at least one case.

Decides factors, levels and cases. Refuses to know how a case is run. The covering array is covertable's, greedy and by
hash: the same cases at every run, on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, product

import covertable

ADAPTIVE = "adaptive"  # K by a policy table that is replaced while the case runs
LARGEST_K = 16

Levels = Mapping[str, Sequence[object]]
Pair = frozenset[tuple[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One combination. `sampling` is the first request's; its neighbours take the kinds that follow in the list."""

    drafter: str
    draft_tokens: int | str
    batch: int
    neighbours: str
    sampling: str
    logprobs: int | None
    kv: str
    prefix_cache: bool
    prefill_chunk: int
    grammar: str | None

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)).replace(" ", "_") for field in fields(self))


def cases(levels: Levels) -> list[Case]:
    """A covering array of strength 2. Raises ValueError for levels that don't name exactly a case's fields."""
    names = [field.name for field in fields(Case)]
    if sorted(levels) != sorted(names):
        raise ValueError(f"levels are given for {sorted(levels)}, a case has {sorted(names)}")
    return [Case(**row) for row in covertable.make(dict(levels), strength=2)]


def pairs_of(levels: Levels) -> set[Pair]:
    """All pairs of levels of two different factors."""
    return {
        frozenset({(one, level), (other, other_level)})
        for one, other in combinations(levels, 2)
        for level, other_level in product(levels[one], levels[other])
    }


def pairs_met(chosen: Iterable[Case]) -> set[Pair]:
    """The pairs that some case holds."""
    names = [field.name for field in fields(Case)]
    return {
        frozenset({(one, getattr(case, one)), (other, getattr(case, other))})
        for case in chosen
        for one, other in combinations(names, 2)
    }
