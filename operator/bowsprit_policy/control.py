"""One tick of the control loop: what the fleet's counters say about the table that pods should execute.

The only entry that a control loop needs. Refuses to know how stats were fetched and how a table reaches a pod;
it neither numbers tables nor remembers anything outside the state that it returns.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_policy.decision import Decision, TableReason
from bowsprit_policy.observation import ControlSettings, Observation
from bowsprit_policy.wire import TableRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSummary:
    """What status.speculation needs. A None figure has no evidence yet; none of them is modelled.

    `acceptance_length`: tokens per sequence-step, steps without a proposal included. `speedup`: measured goodput over
    measured K=0 goodput at the same batch and context, None without such a baseline. `draft_tokens`: the largest cap
    at the batch in use. `drafter`: the one that gave most accepted tokens.
    """

    acceptance_length: float | None
    acceptance_rate: float | None
    per_position: tuple[float, ...]
    speedup: float | None
    tokens_per_second: float
    draft_tokens: int
    drafter: str | None
    batch: int
    has_metrics: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlState:
    """All that the loop remembers between ticks. Serialisable with `pydantic.TypeAdapter(ControlState)`."""

    table: tuple[TableRow, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlStep:
    """The outcome of a tick. `table` is None when the table in force stays (that is not a decision).

    `reason` and `message` explain this tick in either case; `decisions` lists what changed (none when held).
    """

    state: ControlState
    table: tuple[TableRow, ...] | None
    decisions: tuple[Decision, ...]
    summary: SpeculationSummary
    reason: TableReason
    message: str


def begin(*, table: tuple[TableRow, ...] | None) -> ControlState:
    """The state of a new leader. `table`: the one in the stored DraftPolicy, None if there is none yet."""
    raise NotImplementedError


def step(state: ControlState, observation: Observation, settings: ControlSettings, now: float) -> ControlStep:
    """Take in one scrape of the fleet and decide. Call once per tick, with every pod, reachable or not.

    Never raises on any observation. `now`: seconds since the epoch.
    """
    raise NotImplementedError
