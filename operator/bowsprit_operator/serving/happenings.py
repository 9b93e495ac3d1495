"""What two statuses of a SpeculativeModel, one after the other, have to tell: decisions taken, and faults. Pure.

Decides which transitions are worth an Event. A new leader composes the status that it finds, so it tells nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from bowsprit_operator.resources.conditions import Condition, ConditionStatus, ModelCondition, ModelReason, find
from bowsprit_operator.resources.happenings import FaultEvent, Happening
from bowsprit_operator.resources.speculative_model import SpeculativeModelStatus

TRUE, FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE

_ENGINE_FAULTS = {
    ModelReason.IMAGE_PULL_FAILED,
    ModelReason.ENGINE_CRASHING,
    ModelReason.UNSCHEDULABLE,
    ModelReason.CLAIM_MISSING,
    ModelReason.POD_CONFIG_REFUSED,
}

# In the order in which they are told: a condition that has come to this status and reason.
_FAULTS = (
    (ModelCondition.METRICS_AVAILABLE, FALSE, {ModelReason.METRICS_MISSING}, FaultEvent.METRICS_MISSING),
    (ModelCondition.SPECULATION_EFFECTIVE, FALSE, {ModelReason.DRAFTER_BROKEN}, FaultEvent.DRAFTER_BROKEN),
    (ModelCondition.SPECULATOR_CURRENT, FALSE, {ModelReason.SPECULATOR_REFUSED}, FaultEvent.SPECULATOR_REFUSED),
)


def of_change(before: SpeculativeModelStatus, after: SpeculativeModelStatus) -> tuple[Happening, ...]:
    """Decisions first, oldest first; then what became of conditions."""
    return (*_decisions(before, after), *_conditions(before, after))


def _decisions(before: SpeculativeModelStatus, after: SpeculativeModelStatus) -> Iterator[Happening]:
    for entry in reversed(after.decisions):
        if entry not in before.decisions:
            yield Happening(reason=entry.kind, action=entry.reason, note=f"{entry.reason}: {entry.message}")


def _conditions(before: SpeculativeModelStatus, after: SpeculativeModelStatus) -> Iterator[Happening]:
    stalled = find(after.conditions, ModelCondition.STALLED)
    is_stalled = stalled is not None and stalled.status is TRUE
    if stalled is not None and is_stalled and _is_new(before, stalled):
        yield _about(stalled, FaultEvent.STALLED, is_warning=True)
    was = find(before.conditions, ModelCondition.STALLED)
    if was is not None and was.status is TRUE and not is_stalled:
        yield Happening(reason=FaultEvent.RECOVERED, action=was.reason, note=f"{was.reason} is over")
    engines = find(after.conditions, ModelCondition.ENGINES_READY)
    if engines is not None and engines.reason in _ENGINE_FAULTS and not is_stalled and _is_new(before, engines):
        yield _about(engines, FaultEvent.ENGINE_FAULT, is_warning=True)
    for type_, status, reasons, event in _FAULTS:
        found = find(after.conditions, type_)
        if found is not None and found.status is status and found.reason in reasons and _is_new(before, found):
            yield _about(found, event, is_warning=True)
    ready, was_ready = find(after.conditions, ModelCondition.READY), find(before.conditions, ModelCondition.READY)
    if ready is not None and ready.status is TRUE and (was_ready is None or was_ready.status is not TRUE):
        yield _about(ready, FaultEvent.READY, is_warning=False)


def _is_new(before: SpeculativeModelStatus, now: Condition) -> bool:
    """Messages count restarts and pods; only another status or reason is told."""
    was = find(before.conditions, now.type)
    return was is None or (was.status, was.reason) != (now.status, now.reason)


def _about(condition: Condition, event: FaultEvent, *, is_warning: bool) -> Happening:
    note = f"{condition.reason}: {condition.message}" if condition.message else condition.reason
    return Happening(reason=event, action=condition.reason, note=note, is_warning=is_warning)
