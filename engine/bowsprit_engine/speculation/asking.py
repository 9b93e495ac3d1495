"""Whether a count-based drafter is asked for a sequence in this step: not where its record says that it isn't worth it.

Looking up takes some ten microseconds of the engine's thread per sequence, which a batch of texts without repetitions
never gets back. Decides by the tokens that the drafter's drafts for this sequence matched, leaning on those for all
sequences, against the price of asking. Where it isn't worth it every eighth step still asks, so that a text which
begins to repeat itself is noticed within a few tokens. Refuses to know what was drafted and what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bowsprit_engine.speculation.confidence import Rate

KEEP = 0.9  # of what a sequence's drafts matched, per draft
OVERALL_KEEP = 0.998
LEAN = 0.5  # drafts' worth of belief has the record of all sequences
SAMPLED_EVERY = 8  # steps, where asking isn't worth it
OVERHEAD = 2.0  # composing, scoring and learning take as long again as looking up
MOST_PRICE = 0.05  # tokens: one slow answer shuts nobody up


@dataclass(slots=True, kw_only=True)
class Record:
    """Of one drafter in one sequence: matched tokens by draft. `overall`: of all sequences, one object for each."""

    overall: Rate
    own: Rate = field(default_factory=Rate)
    steps_unasked: int = 0

    def add(self, num_matched: int) -> None:
        """A draft is decided; 0 also where nothing was proposed."""
        self.own.count(matched=num_matched, keep=KEEP)
        self.overall.count(matched=num_matched, keep=OVERALL_KEEP)

    @property
    def worth(self) -> float:
        """Tokens that asking is expected to bring."""
        return self.own.leaning(self.overall.leaning(1.0, lean=1.0), lean=LEAN)

    def is_due(self, *, price: float) -> bool:
        """Ask in this step? To be called once per step."""
        if self.worth >= price or self.steps_unasked >= SAMPLED_EVERY - 1:
            self.steps_unasked = 0
            return True
        self.steps_unasked += 1
        return False


def price_of(*, seconds: float | None, step_seconds: float | None, batch: int) -> float:
    """Of asking for one sequence, in tokens of a step that emits one per sequence; nothing while times are unknown."""
    if not seconds or not step_seconds:
        return 0.0
    return min(MOST_PRICE, OVERHEAD * seconds / step_seconds * batch)
