"""Whether a count-based drafter is asked for a sequence in this step: not where its record says that it isn't worth it.

Looking up takes some ten microseconds of the engine's thread per sequence, which a batch of texts without repetitions
never gets back. Decides by the tokens that asking it for this sequence brought, leaning on those for all sequences,
against the price of asking. Every eighth step asks for all all the same (more seldom where that would take more than a
two-hundredth of all steps' time), so that a text which begins to repeat itself is noticed: the same step for all, since
code and tables come out of memory once then, and the steps between cost next to nothing. Refuses to know what was
drafted and what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bowsprit_engine.speculation.confidence import Rate

KEEP = 0.9  # of what a sequence's drafts matched, per draft
OVERALL_KEEP = 0.998
LEAN = 0.5  # drafts' worth of belief has the record of all sequences
SAMPLED_EVERY = 8  # steps, and twice or four times as many
SELDOM = 32
SAMPLING_SHARE = 0.005  # of step time


@dataclass(slots=True, kw_only=True)
class Record:
    """Of one drafter in one sequence: matched tokens by draft. `overall`: of all sequences, one object for each."""

    overall: Rate
    own: Rate = field(default_factory=Rate)
    worth: float = field(init=False)  # tokens that asking is expected to bring, as of its own last draft

    def __post_init__(self) -> None:
        self.worth = self._expected()

    def add(self, tokens_brought: float) -> None:
        """A draft is decided; 0 also where nothing was proposed."""
        self.own.count(matched=tokens_brought, keep=KEEP)
        self.overall.count(matched=tokens_brought, keep=OVERALL_KEEP)
        self.worth = self._expected()

    def _expected(self) -> float:
        return self.own.leaning(self.overall.leaning(1.0, lean=1.0), lean=LEAN)


@dataclass(slots=True)
class Sampling:
    """Of a pool's steps: which ask whether it is worth it or not."""

    is_due: bool = False
    _steps_since: int = 0

    def begin_step(self, *, share: float) -> None:
        """`share`: of a step that it takes to ask every drafter for every sequence."""
        self._steps_since += 1
        self.is_due = self._steps_since >= _steps_between(share)
        if self.is_due:
            self._steps_since = 0


def _steps_between(share: float) -> int:
    steps = SAMPLED_EVERY
    while steps < SELDOM and share > SAMPLING_SHARE * steps:
        steps *= 2
    return steps
