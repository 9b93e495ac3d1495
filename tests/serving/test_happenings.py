"""What a new status tells as Events: decisions once, faults when they begin, nothing that has not changed."""

from __future__ import annotations

from datetime import UTC, datetime

from bowsprit_operator.resources.conditions import Condition, ConditionStatus, ModelCondition, ModelReason
from bowsprit_operator.resources.speculative_model import DecisionEntry, SpeculativeModelStatus
from bowsprit_operator.serving.happenings import of_change

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TRUE, FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE


def decided(kind: str, reason: str, message: str = "the numbers", *, minute: int = 0) -> DecisionEntry:
    return DecisionEntry(time=NOON.replace(minute=minute), kind=kind, reason=reason, message=message)


def condition(
    type_: ModelCondition, status: ConditionStatus, reason: ModelReason, message: str = "its words"
) -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message, last_transition_time=NOON)


def status(*conditions: Condition, decisions: tuple[DecisionEntry, ...] = ()) -> SpeculativeModelStatus:
    return SpeculativeModelStatus(conditions=conditions, decisions=decisions)


def told(before: SpeculativeModelStatus, after: SpeculativeModelStatus) -> list[tuple[str, str, bool]]:
    """Reason, note and whether it is a warning."""
    return [(each.reason, each.note, each.is_warning) for each in of_change(before, after)]


def test_each_new_decision_is_told_once_the_oldest_first() -> None:
    """status.decisions has the newest first, and keeps what was told before."""
    first, second = decided("Train", "FirstTraffic"), decided("Promote", "GatePassed", minute=1)
    old = decided("DraftLength", "FirstTable")
    before, after = status(decisions=(old,)), status(decisions=(second, first, old))
    expected = [("Train", "FirstTraffic: the numbers", False), ("Promote", "GatePassed: the numbers", False)]
    assert told(before, after) == expected
    assert told(after, after) == []


def test_a_stalled_model_is_told_once_and_not_as_an_engine_fault_too() -> None:
    """Restarts change the message, not the reason; when it is over, that is told."""
    crashing = [
        status(
            condition(ModelCondition.STALLED, TRUE, ModelReason.ENGINE_CRASHING, f"restart {n}"),
            condition(ModelCondition.ENGINES_READY, FALSE, ModelReason.ENGINE_CRASHING, f"restart {n}"),
        )
        for n in (1, 2)
    ]
    over = status(condition(ModelCondition.STALLED, FALSE, ModelReason.NOT_STALLED, ""))
    assert told(status(), crashing[0]) == [("Stalled", "EngineCrashing: restart 1", True)]
    assert told(crashing[0], crashing[1]) == []
    assert told(crashing[1], over) == [("Recovered", "EngineCrashing is over", False)]


def test_a_fault_that_may_pass_is_an_engine_fault() -> None:
    """The model isn't stalled, and the engines aren't ready for a reason."""
    waiting = status(
        condition(ModelCondition.STALLED, FALSE, ModelReason.NOT_STALLED),
        condition(ModelCondition.ENGINES_READY, FALSE, ModelReason.UNSCHEDULABLE, "no node"),
    )
    starting = status(condition(ModelCondition.ENGINES_READY, FALSE, ModelReason.ENGINES_STARTING))
    assert told(status(), waiting) == [("EngineFault", "Unschedulable: no node", True)]
    assert told(waiting, starting) == []


def test_faults_of_drafting_and_of_metrics_are_told_when_they_begin() -> None:
    """In the order of the conditions."""
    before = status(
        condition(ModelCondition.METRICS_AVAILABLE, TRUE, ModelReason.METRICS_FRESH),
        condition(ModelCondition.SPECULATION_EFFECTIVE, TRUE, ModelReason.SPECULATION_PAYS),
        condition(ModelCondition.SPECULATOR_CURRENT, TRUE, ModelReason.SPECULATOR_LOADED),
    )
    after = status(
        condition(ModelCondition.METRICS_AVAILABLE, FALSE, ModelReason.METRICS_MISSING),
        condition(ModelCondition.SPECULATION_EFFECTIVE, FALSE, ModelReason.DRAFTER_BROKEN),
        condition(ModelCondition.SPECULATOR_CURRENT, FALSE, ModelReason.SPECULATOR_REFUSED),
    )
    assert told(before, after) == [
        ("MetricsMissing", "MetricsMissing: its words", True),
        ("DrafterBroken", "DrafterBroken: its words", True),
        ("SpeculatorRefused", "SpeculatorRefused: its words", True),
    ]
    assert told(after, after) == []


def test_becoming_ready_is_told_and_staying_ready_is_not() -> None:
    """What `kubectl describe` ends with when all is well."""
    ready = status(condition(ModelCondition.READY, TRUE, ModelReason.ALL_ENGINES_READY, "1 of 1 engines"))
    assert told(status(), ready) == [("Ready", "AllEnginesReady: 1 of 1 engines", False)]
    assert told(ready, ready) == []
