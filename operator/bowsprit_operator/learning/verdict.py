"""What a run's result becomes: a SpeculatorRevision, its conditions, and how the run ended.

Refuses to judge (bowsprit_policy.gate does) and to write.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bowsprit_operator.resources.base import ObjectMeta
from bowsprit_operator.resources.conditions import Condition, ConditionStatus, Finding, RevisionCondition, merge
from bowsprit_operator.resources.speculator_revision import (
    RevisionData,
    RevisionEvaluation,
    SpeculatorRevision,
    SpeculatorRevisionSpec,
)
from bowsprit_operator.resources.speculator_training import SpeculatorTraining, TrainingOutcome
from bowsprit_policy import wire
from bowsprit_policy.gate import Judgement, Verdict
from bowsprit_policy.promotion import PromotionReason

_MESSAGE_CHARACTERS = 1024  # maxLength in status


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


def outcome_of(judgement: Judgement, *, is_promoted_by_gate: bool) -> TrainingOutcome:
    """`is_promoted_by_gate`: promotion mode Auto, and nothing pinned."""
    if judgement.verdict is Verdict.REJECTED:
        return TrainingOutcome.REJECTED
    return TrainingOutcome.PROMOTED if is_promoted_by_gate else TrainingOutcome.EVALUATED


def conditions_of(
    judgement: Judgement, *, is_promoted_by_gate: bool, stored: tuple[Condition, ...], now: datetime
) -> tuple[Condition, ...]:
    """Evaluated, and Promoted or Rejected; each with the numbers."""
    is_rejected = judgement.verdict is Verdict.REJECTED
    reason, message = judgement.reason.value, judgement.message[:_MESSAGE_CHARACTERS]
    if is_rejected:
        promoted = Finding(
            type=RevisionCondition.PROMOTED, status=ConditionStatus.FALSE, reason=reason, message=message
        )
    elif is_promoted_by_gate:
        promoted = Finding(
            type=RevisionCondition.PROMOTED,
            status=ConditionStatus.TRUE,
            reason=PromotionReason.GATE_PASSED,
            message=message,
        )
    else:
        promoted = Finding(
            type=RevisionCondition.PROMOTED,
            status=ConditionStatus.FALSE,
            reason=PromotionReason.MANUAL,
            message="it serves when a drafter's revision names it",
        )
    findings = (
        Finding(type=RevisionCondition.EVALUATED, status=ConditionStatus.TRUE, reason=reason, message=message),
        promoted,
        Finding(
            type=RevisionCondition.REJECTED,
            status=ConditionStatus.TRUE if is_rejected else ConditionStatus.FALSE,
            reason=reason,
            message=message,
        ),
    )
    return merge(stored, findings, now=now, generation=None)


def promoted_later(
    stored: tuple[Condition, ...], *, reason: PromotionReason, message: str, now: datetime
) -> tuple[Condition, ...]:
    """The conditions of a revision that waited and now serves."""
    findings = tuple(
        Finding(type=RevisionCondition.PROMOTED, status=ConditionStatus.TRUE, reason=reason, message=message)
        if condition.type == RevisionCondition.PROMOTED
        else Finding.model_validate(condition.model_dump(by_alias=True))
        for condition in stored
    )
    return merge(stored, findings, now=now, generation=None)


def moment(now: float) -> datetime:
    """Seconds since the epoch as the API's time."""
    return datetime.fromtimestamp(now, tz=UTC)
