"""What a run's result becomes: a SpeculatorRevision, its conditions and stage, and how the run ended.

Refuses to judge (bowsprit_policy.gate does) and to write.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

from bowsprit_operator.resources import conditions
from bowsprit_operator.resources.base import ObjectMeta
from bowsprit_operator.resources.conditions import Condition, ConditionStatus, Finding, RevisionCondition, merge
from bowsprit_operator.resources.speculator_revision import (
    RevisionData,
    RevisionEvaluation,
    RevisionStage,
    SpeculatorRevision,
    SpeculatorRevisionSpec,
    SpeculatorRevisionStatus,
)
from bowsprit_operator.resources.speculator_training import SpeculatorTraining, TrainingOutcome
from bowsprit_policy import wire
from bowsprit_policy.gate import Judgement, Verdict
from bowsprit_policy.promotion import PromotionReason
from bowsprit_policy.shadow import ShadowReason

_MESSAGE_CHARACTERS = 1024  # maxLength in status


class AfterGate(StrEnum):
    """What becomes of a revision that passes the gate."""

    SERVES = "Serves"
    IS_SHADOWED = "IsShadowed"
    WAITS_FOR_USER = "WaitsForUser"


def revision_of(
    training: SpeculatorTraining, result: wire.TrainingResult, *, name: str, number: int
) -> SpeculatorRevision:
    """The immutable record. It carries no owner: it outlives the model. `result` is an evaluated one."""
    if result.artifact is None or result.evaluation is None or result.model_digest is None:
        raise ValueError(f"the result of {training.name} is not an evaluated one")
    return SpeculatorRevision(
        metadata=ObjectMeta(name=name, namespace=training.namespace),
        spec=SpeculatorRevisionSpec(
            model_name=training.spec.model_name,
            drafter=training.spec.drafter,
            number=number,
            training=training.name,
            parent=result.parent,
            model_digest=result.model_digest,
            artifact=result.artifact,
            data=None if result.data is None else RevisionData.model_validate(result.data.model_dump(by_alias=True)),
            seconds=result.seconds,
            evaluation=RevisionEvaluation.of(result.evaluation),
        ),
    )


def outcome_of(judgement: Judgement, after: AfterGate) -> TrainingOutcome:
    """How the run ended; one that is Evaluated follows its revision later."""
    if judgement.verdict is Verdict.REJECTED:
        return TrainingOutcome.REJECTED
    return TrainingOutcome.PROMOTED if after is AfterGate.SERVES else TrainingOutcome.EVALUATED


_WAITING = {
    AfterGate.IS_SHADOWED: (PromotionReason.IN_SHADOW, "first it drafts in the shadow of who serves"),
    AfterGate.WAITS_FOR_USER: (PromotionReason.MANUAL, "it serves when a drafter's revision names it"),
}


def judged(
    stored: SpeculatorRevision, judgement: Judgement, after: AfterGate, now: datetime
) -> SpeculatorRevisionStatus:
    """Evaluated, and Promoted or Rejected; each with the numbers."""
    if judgement.verdict is Verdict.REJECTED:
        return rejected(stored, reason=judgement.reason, message=judgement.message, now=now)
    reason, message = _WAITING.get(after, (PromotionReason.GATE_PASSED, judgement.message))
    findings = (
        finding(RevisionCondition.EVALUATED, True, judgement.reason, judgement.message),
        finding(RevisionCondition.PROMOTED, after is AfterGate.SERVES, reason, message),
        finding(RevisionCondition.REJECTED, False, judgement.reason, judgement.message),
    )
    return with_findings(stored.status, findings, now=now)


def rejected(stored: SpeculatorRevision, *, reason: StrEnum, message: str, now: datetime) -> SpeculatorRevisionStatus:
    """By the gate, or in its shadow."""
    findings = [
        finding(RevisionCondition.PROMOTED, False, reason, message),
        finding(RevisionCondition.REJECTED, True, reason, message),
    ]
    if not conditions.is_true(stored.status.conditions, RevisionCondition.EVALUATED):  # what the gate said stays
        findings.append(finding(RevisionCondition.EVALUATED, True, reason, message))
    return with_findings(stored.status, findings, now=now)


def promoted(
    stored: SpeculatorRevision, *, reason: PromotionReason, message: str, now: datetime
) -> SpeculatorRevisionStatus:
    """Of a revision that waited and now serves. `reason`: of this tick's choice, which may be about another by now."""
    if reason not in (PromotionReason.GATE_PASSED, PromotionReason.PINNED_BY_SPEC):  # it was chosen before a restart
        reason, message = PromotionReason.GATE_PASSED, "it serves"
    findings = (finding(RevisionCondition.PROMOTED, True, reason, message),)
    return with_findings(stored.status, findings, now=now)


def finding(type_: RevisionCondition, is_true: bool | None, reason: StrEnum, message: str) -> Finding:
    """`is_true` None: Unknown."""
    status = ConditionStatus.UNKNOWN if is_true is None else ConditionStatus(str(is_true))
    return Finding(type=type_, status=status, reason=reason, message=message[:_MESSAGE_CHARACTERS])


def with_findings(
    stored: SpeculatorRevisionStatus, findings: Iterable[Finding], *, now: datetime
) -> SpeculatorRevisionStatus:
    """The status with these conditions changed, in RevisionCondition's order, and the stage that they come to."""
    known = {condition.type: Finding.model_validate(condition.model_dump()) for condition in stored.conditions}
    known |= {found.type: found for found in findings}
    ordered = [known[type_] for type_ in RevisionCondition if type_ in known]
    merged = merge(stored.conditions, ordered, now=now, generation=None)
    return stored.model_copy(update={"conditions": merged, "stage": _stage(merged)})


def _stage(found: tuple[Condition, ...]) -> RevisionStage:
    """Where it is now: one that serves may have been rejected before its user pinned it."""
    shadowed = conditions.find(found, RevisionCondition.SHADOWED)
    if shadowed is not None and shadowed.reason == ShadowReason.SHADOWING:
        return RevisionStage.SHADOW
    if conditions.is_true(found, RevisionCondition.PROMOTED):
        return RevisionStage.PROMOTED
    is_rejected = conditions.is_true(found, RevisionCondition.REJECTED)
    return RevisionStage.REJECTED if is_rejected else RevisionStage.EVALUATED


def moment(now: float) -> datetime:
    """Seconds since the epoch as the API's time."""
    return datetime.fromtimestamp(int(now), tz=UTC)
