"""Conditions: their types, the enumerated reasons, and how a new set is merged with the stored one.

Decides when lastTransitionTime moves (status changed) and that every known type is always written. Refuses to know
what makes a condition true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from bowsprit_operator.resources.base import ResourceValue, Time


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ModelCondition(StrEnum):
    """Condition types of a SpeculativeModel. Ready, Reconciling and Stalled are what kstatus reads."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ENGINES_READY = "EnginesReady"
    SPECULATION_EFFECTIVE = "SpeculationEffective"
    METRICS_AVAILABLE = "MetricsAvailable"
    SPECULATOR_CURRENT = "SpeculatorCurrent"
    OUTPUT_VERIFIED = "OutputVerified"


class TrainingCondition(StrEnum):
    """Condition types of a SpeculatorTraining."""

    COMPLETE = "Complete"
    FAILED = "Failed"


class RevisionCondition(StrEnum):
    """Condition types of a SpeculatorRevision."""

    EVALUATED = "Evaluated"
    SHADOWED = "Shadowed"
    PROMOTED = "Promoted"
    REJECTED = "Rejected"
    ROLLED_BACK = "RolledBack"


class ModelReason(StrEnum):
    """Reasons in conditions of a SpeculativeModel. Stable: alert rules and health checks may read them."""

    # Ready, EnginesReady, Reconciling
    ALL_ENGINES_READY = "AllEnginesReady"
    ENGINES_STARTING = "EnginesStarting"
    ENGINES_ROLLING = "EnginesRolling"
    ENGINES_UNREADY = "EnginesUnready"
    SCALED_TO_ZERO = "ScaledToZero"
    WRITING_CHILDREN = "WritingChildren"
    CONVERGED = "Converged"
    DELETING = "Deleting"
    # Stalled
    NOT_STALLED = "NotStalled"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    ENGINE_CRASHING = "EngineCrashing"
    SPEC_REFUSED = "SpecRefused"
    CHILD_NOT_OURS = "ChildNotOurs"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    UNSCHEDULABLE = "Unschedulable"
    CLAIM_MISSING = "ClaimMissing"
    POD_CONFIG_REFUSED = "PodConfigRefused"
    # SpeculationEffective
    SPECULATION_PAYS = "SpeculationPays"
    SPECULATION_LOSES = "SpeculationLoses"
    OFF_BY_SPEC = "OffBySpec"
    NO_BASELINE_YET = "NoBaselineYet"
    DRAFTER_BROKEN = "DrafterBroken"
    # MetricsAvailable
    METRICS_FRESH = "MetricsFresh"
    METRICS_MISSING = "MetricsMissing"
    NO_ENGINES = "NoEngines"
    # SpeculatorCurrent
    NOT_TRAINED_HERE = "NotTrainedHere"
    UNTRAINED = "Untrained"
    SPECULATOR_IN_SHADOW = "SpeculatorInShadow"
    SPECULATOR_LOADED = "SpeculatorLoaded"
    SPECULATOR_LOADING = "SpeculatorLoading"
    SPECULATOR_REFUSED = "SpeculatorRefused"
    TRAINING_RUNNING = "TrainingRunning"
    REVISION_MISSING = "RevisionMissing"
    # OutputVerified
    NOT_CHECKED = "NotChecked"


class Condition(ResourceValue):
    """One entry of status.conditions."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: Time
    observed_generation: int | None = None


class Finding(ResourceValue):
    """What was found now about one condition type; merge() turns it into a Condition."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    found = find(conditions, type_)
    return found is not None and found.status is ConditionStatus.TRUE


def merge(
    stored: Sequence[Condition], findings: Sequence[Finding], *, now: datetime, generation: int | None
) -> tuple[Condition, ...]:
    """The conditions to write, in the order of `findings`. A time moves only when a status changes."""
    merged = []
    for finding in findings:
        before = find(stored, finding.type)
        is_same = before is not None and before.status is finding.status
        merged.append(
            Condition(
                type=finding.type,
                status=finding.status,
                reason=finding.reason,
                message=finding.message,
                last_transition_time=before.last_transition_time if before is not None and is_same else now,
                observed_generation=generation,
            )
        )
    return tuple(merged)
