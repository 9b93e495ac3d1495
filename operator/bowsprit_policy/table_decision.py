"""The values of a decision on draft lengths: what it looked at, what it decided per batch, and the outcome.

Values only; the deciding is in draft_length.py, the wording in table_message.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bowsprit_policy.acceptance import AcceptanceState, Estimate
from bowsprit_policy.cost import CostState
from bowsprit_policy.decision import Alternative, TableReason
from bowsprit_policy.observation import ControlSettings
from bowsprit_policy.wire import DrafterState, DrafterType, TableRow


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterView:
    """A drafter of the spec as the pods report it: the best state that any has. `evaluated`: as in DrafterSpec."""

    name: str
    type: DrafterType
    state: DrafterState
    reason: str = ""
    evaluated: tuple[float, ...] = ()

    @property
    def is_admitted(self) -> bool:
        """Low acceptance is no reason to leave a drafter out: it is held at K=0 and probed."""
        return self.state in (DrafterState.ACTIVE, DrafterState.LOW_ACCEPTANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLengthInputs:
    """Everything that draft_length looks at. `drafts`: seen since this leader began. `switched_at`: by batch bucket."""

    now: float
    settings: ControlSettings
    table: tuple[TableRow, ...] | None
    switched_at: Mapping[int, float]
    drafters: tuple[DrafterView, ...]
    acceptance: tuple[AcceptanceState, ...]
    cost: CostState
    draft_tokens_max: int
    max_batch_size: int
    batch_in_use: int
    drafts: int
    missing_ticks: int = 0
    contended_ticks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """What was decided for one batch bucket, changed or not. `gain` None: not compared (first table, or forced).

    Of an admission `current` is what is in force, with nothing for the newcomers, and `gain` is what they should bring.
    `plain` is the choice of K=0 for all. `alternatives`: the best-ranked choices, best first.
    `considered`: the one that `gain` is about, taken or not.
    """

    batch: int
    before: dict[str, int]
    after: dict[str, int]
    reason: TableReason
    current: Alternative | None
    chosen: Alternative
    plain: Alternative
    considered: Alternative | None
    gain: Estimate | None
    alternatives: tuple[Alternative, ...]

    @property
    def is_changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDecision:
    """`table` None: the one in force stays, and `reason`, `message` say why. `before`, `after`: at the batch in use."""

    table: tuple[TableRow, ...] | None
    reason: TableReason
    message: str
    before: str
    after: str
    rows: tuple[RowChange, ...] = ()
