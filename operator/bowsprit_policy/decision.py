"""What a decision is, whoever takes it: a reason from an enumerated list, the numbers, and what else was considered.

Reasons are CamelCase and stable: they appear in status, events, logs and alert rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DecisionKind(StrEnum):
    """status.decisions[].kind. Scale arrives with scaling."""

    DRAFT_LENGTH = "DraftLength"
    TRAIN = "Train"
    SHADOW = "Shadow"
    PROMOTE = "Promote"
    REJECT = "Reject"
    ROLLBACK = "Rollback"


class TableReason(StrEnum):
    """Why the table changed, or why it did not."""

    FIRST_TABLE = "FirstTable"
    GOODPUT_GAIN = "GoodputGain"
    SPECULATION_LOSES = "SpeculationLoses"
    SPECULATION_PAYS_AGAIN = "SpeculationPaysAgain"
    DRAFTER_ADMITTED = "DrafterAdmitted"
    DRAFTER_BROKEN = "DrafterBroken"
    DRAFTER_UNAVAILABLE = "DrafterUnavailable"
    LIMITS_CHANGED = "LimitsChanged"
    FIXED_BY_SPEC = "FixedBySpec"
    OFF_BY_SPEC = "OffBySpec"
    SAFE_TABLE = "SafeTable"
    # held
    TABLE_IS_BEST = "TableIsBest"
    GAIN_TOO_SMALL = "GainTooSmall"
    GAIN_WITHIN_NOISE = "GainWithinNoise"
    NOT_YET_MEASURED = "NotYetMeasured"
    DWELL_TIME = "DwellTime"
    WARMING_UP = "WarmingUp"
    METRICS_MISSING = "MetricsMissing"
    CONTENDED = "Contended"
    NO_PODS = "NoPods"
    NO_PROFILE = "NoProfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another choice that was scored. `goodput`: tokens per second at a full batch of the row."""

    choice: str
    acceptance_length: float
    step_seconds: float
    goodput: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Something that changed. `at`: seconds since the epoch, as given. `before` and `after` are short, for status.

    `record` is one line of JSON with the inputs, the alternatives and the estimators' state: log it as it is;
    `replay.replay(record)` takes the same decision from it.
    """

    at: float
    kind: DecisionKind
    reason: str
    message: str
    before: str
    after: str
    record: str
