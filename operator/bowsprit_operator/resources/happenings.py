"""Something that `kubectl describe` should tell: what an Event says, before it is one. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultEvent(StrEnum):
    """Reasons of Events about conditions. Those about decisions are bowsprit_policy's DecisionKind."""

    STALLED = "Stalled"
    RECOVERED = "Recovered"
    READY = "Ready"
    ENGINE_FAULT = "EngineFault"
    METRICS_MISSING = "MetricsMissing"
    DRAFTER_BROKEN = "DrafterBroken"
    SPECULATOR_REFUSED = "SpeculatorRefused"
    TRAINING_FAILED = "TrainingFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """`reason`: what happened (kubectl's column). `action`: why, from an enumerated list. `note`: with the numbers."""

    reason: str
    action: str
    note: str
    is_warning: bool = False
