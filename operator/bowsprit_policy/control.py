"""One tick of the control loop: what the fleet's counters say about the table that pods should execute.

The only entry that a control loop needs. Refuses to know how stats were fetched and how a table reaches a pod;
it neither numbers tables nor remembers anything outside the state that it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bowsprit_policy import acceptance, cost, draft_length, goodput, record
from bowsprit_policy import table as tables
from bowsprit_policy.acceptance import AcceptanceState
from bowsprit_policy.cost import CostState
from bowsprit_policy.decision import Decision, DecisionKind, TableReason
from bowsprit_policy.fleet import FleetState, FleetStep, observe
from bowsprit_policy.goodput import GoodputState
from bowsprit_policy.observation import ControlSettings, Observation
from bowsprit_policy.table_decision import DrafterView, DraftLengthInputs, TableDecision
from bowsprit_policy.wire import DrafterState, TableRow


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
    """All that the loop remembers between ticks. Serialisable with `pydantic.TypeAdapter(ControlState)`.

    `table` is the one in force; `switched_at` by batch bucket; `drafts` since this leader began.
    """

    table: tuple[TableRow, ...] | None
    fleet: FleetState = field(default_factory=FleetState)
    acceptance: tuple[AcceptanceState, ...] = ()
    cost: CostState = field(default_factory=CostState)
    goodput: GoodputState = field(default_factory=GoodputState)
    drafters: tuple[DrafterView, ...] = ()
    switched_at: Mapping[int, float] = field(default_factory=dict)
    draft_tokens_max: int = 0
    max_batch_size: int = 1
    drafts: int = 0
    missing_ticks: int = 0
    contended_ticks: int = 0


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
    return ControlState(table=table)


def step(state: ControlState, observation: Observation, settings: ControlSettings, now: float) -> ControlStep:
    """Take in one scrape of the fleet and decide. Call once per tick, with every pod, reachable or not.

    Never raises on any observation. `now`: seconds since the epoch.
    """
    state = _taken_in(state, observation, settings)
    inputs = DraftLengthInputs(
        now=now,
        settings=settings,
        table=state.table,
        switched_at=state.switched_at,
        drafters=state.drafters,
        acceptance=state.acceptance,
        cost=state.cost,
        draft_tokens_max=state.draft_tokens_max,
        max_batch_size=state.max_batch_size,
        batch_in_use=state.goodput.batch_in_use,
        drafts=state.drafts,
        missing_ticks=state.missing_ticks,
        contended_ticks=state.contended_ticks,
    )
    outcome = draft_length.decide(inputs)
    decisions: tuple[Decision, ...] = ()
    if outcome.table is not None:
        state = replace(state, table=outcome.table, switched_at=_switched(state, outcome, now))
        decisions = (
            Decision(
                at=now,
                kind=DecisionKind.DRAFT_LENGTH,
                reason=outcome.reason,
                message=outcome.message,
                before=outcome.before,
                after=outcome.after,
                record=record.line(kind=DecisionKind.DRAFT_LENGTH, at=now, inputs=inputs, outcome=outcome),
            ),
        )
    return ControlStep(
        state=state,
        table=outcome.table,
        decisions=decisions,
        summary=_summary(state),
        reason=outcome.reason,
        message=outcome.message,
    )


def _taken_in(state: ControlState, observation: Observation, settings: ControlSettings) -> ControlState:
    seen = observe(state.fleet, observation)
    if not seen.answering:
        missing = state.missing_ticks + 1 if observation.pods else 0
        return replace(state, fleet=seen.state, missing_ticks=missing)
    if seen.has_other_model:
        # Another target: nothing that was learned holds. The table stays until there are figures again.
        state = begin(table=state.table)
    digest = seen.state.model_digest
    profiles = cost.profiled(
        [pod.profile for pod in observation.pods if pod.profile is not None and pod.profile.model_digest == digest]
    )
    costs = replace(state.cost, profile=profiles or state.cost.profile)
    if seen.history.drafters or seen.history.cells:
        state = replace(state, acceptance=acceptance.recalled(seen.history.drafters))
        costs = cost.recalled(costs, seen.history)
    return replace(
        state,
        fleet=seen.state,
        acceptance=acceptance.update_all(state.acceptance, seen.delta.drafters),
        cost=cost.update(costs, seen.delta),
        goodput=goodput.update(state.goodput, seen.delta),
        drafters=_views(settings, seen),
        draft_tokens_max=min(stats.draft_tokens_max for stats in seen.answering),
        max_batch_size=max(stats.max_batch_size for stats in seen.answering),
        drafts=state.drafts + sum(drafter.num_scored for drafter in seen.delta.drafters),
        missing_ticks=0,
        contended_ticks=state.contended_ticks + 1 if cost.is_mostly_contended(seen.delta) else 0,
    )


def _views(settings: ControlSettings, seen: FleetStep) -> tuple[DrafterView, ...]:
    """Each drafter of the spec in the best state that any pod has it in. One that no pod knows yet is Empty."""
    ranks: Sequence[DrafterState] = (
        DrafterState.ACTIVE,
        DrafterState.LOW_ACCEPTANCE,
        DrafterState.BROKEN,
        DrafterState.EMPTY,
    )
    views = []
    for spec in settings.drafters:
        reported = [drafter for stats in seen.answering for drafter in stats.drafters if drafter.name == spec.name]
        best = min(reported, key=lambda drafter: ranks.index(drafter.state), default=None)
        views.append(
            DrafterView(
                name=spec.name,
                type=spec.type,
                state=best.state if best else DrafterState.EMPTY,
                reason=best.reason if best else "no engine has it",
                evaluated=spec.evaluated,
            )
        )
    return tuple(views)


def _switched(state: ControlState, outcome: TableDecision, now: float) -> dict[int, float]:
    if not outcome.rows:
        return {}
    return dict(state.switched_at) | {row.batch: now for row in outcome.rows if row.is_changed}


def _summary(state: ControlState) -> SpeculationSummary:
    recent = state.goodput
    caps = tables.caps_at(state.table or (), recent.batch_in_use)
    has_metrics = state.missing_ticks == 0 and bool(state.fleet.pods)
    return SpeculationSummary(
        acceptance_length=goodput.acceptance_length(recent),
        acceptance_rate=goodput.acceptance_rate(recent),
        per_position=goodput.per_position(recent),
        speedup=goodput.speedup(recent, state.cost),
        tokens_per_second=recent.tokens_per_second if has_metrics else 0.0,
        draft_tokens=max(caps.values(), default=0),
        drafter=goodput.leading_drafter(recent),
        batch=recent.batch_in_use,
        has_metrics=has_metrics,
    )
