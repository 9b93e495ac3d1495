"""What the pool proposes for a sequence: tokens, who drafted each, and how likely it is that they match so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

AHEAD = "+"  # marks tokens that follow another drafter's: they match more or less often than those that begin
NOBODY = ""  # the source of tokens that a grammar leaves no choice about: they count in no drafter's figures


class Run(NamedTuple):
    """Tokens `begin` to `end` of a proposal, of one drafter."""

    drafter: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One entry per token: `sources[i]` drafted token i; `survivals[i]`: P(tokens 0..i all match). Empty: nobody."""

    token_ids: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    survivals: tuple[float, ...] = ()

    @property
    def drafter(self) -> str:
        """Who begins; NOBODY where nothing is drafted or the grammar begins."""
        return self.sources[0] if self.sources else ""

    def cut(self, length: int) -> Proposal:
        return Proposal(
            token_ids=self.token_ids[:length], sources=self.sources[:length], survivals=self.survivals[:length]
        )

    def runs(self) -> Iterator[Run]:
        """The drafters' shares, in order."""
        begin = 0
        for end in range(1, len(self.sources) + 1):
            if end == len(self.sources) or self.sources[end] != self.sources[begin]:
                yield Run(drafter=self.sources[begin], begin=begin, end=end)
                begin = end


NOTHING = Proposal()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One step's drafting: a proposal per sequence; who was asked, proposed, and for how long.

    `asked_by_sequence`: whose turn it was to begin, per sequence; look-up that wasn't worth asking counts as asked, so
    that E is of all steps. Drafters held at 0 that are only watched are in none.
    """

    proposals: tuple[Proposal, ...]
    asked: Mapping[str, int] = field(default_factory=dict)
    proposed: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    asked_by_sequence: tuple[tuple[str, ...], ...] = ()


class Turn(NamedTuple):
    """One drafter's share of one sequence-step, verified: it drafted positions `begin` to `end`.

    `limit`: end of the positions that it could have drafted, all before them being drafted. `num_judged`: positions of
    the step's text that were judged, all before them having matched. `num_accepted`: tokens of the draft that matched.
    A tuple, since every sequence of every step has one per drafter, also where nothing was drafted.
    """

    drafter: str
    begin: int
    end: int
    limit: int
    num_judged: int
    num_accepted: int

    @property
    def num_drafted(self) -> int:
        """Of its own tokens."""
        return self.end - self.begin

    @property
    def num_drafted_accepted(self) -> int:
        """Of its own tokens, those that matched."""
        return min(self.end, max(self.begin, self.num_accepted)) - self.begin


def turns(
    proposal: Proposal, *, asked: Sequence[str], caps: Mapping[str, int], num_accepted: int, num_emitted: int
) -> list[Turn]:
    """Whose turn each position of a verified proposal was. Where nothing was drafted it was that of all who were asked.

    The last drafter could have gone on by one position within its cap; the others were followed by someone else.
    """
    length = len(proposal.token_ids)
    if length == 0:
        return list(_undrafted(tuple(asked), tuple(min(1, caps.get(name, 0)) for name in asked), min(1, num_emitted)))
    runs = [run for run in proposal.runs() if run.drafter != NOBODY]
    return [
        Turn(
            drafter=run.drafter,
            begin=run.begin,
            end=run.end,
            limit=max(run.end, min(run.end + 1, caps.get(run.drafter, 0))) if run.end == length else run.end,
            num_judged=min(num_accepted + 1, num_emitted),
            num_accepted=num_accepted,
        )
        for run in runs
    ]


@cache
def _undrafted(asked: tuple[str, ...], limits: tuple[int, ...], num_judged: int) -> tuple[Turn, ...]:
    """The same few at every step that drafts nothing."""
    return tuple(
        Turn(name, begin=0, end=0, limit=limit, num_judged=num_judged, num_accepted=0)
        for name, limit in zip(asked, limits, strict=True)
    )
