"""May this candidate serve? Judged on measured acceptance lengths alone, never on a training loss.

Refuses to know how the figures came about, and doesn't promote: see promotion.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy.wire import Evaluation


class Verdict(StrEnum):
    """A rejection is a correct outcome, not a failure."""

    PASSED = "Passed"
    REJECTED = "Rejected"


class GateReason(StrEnum):
    """Why, in one word."""

    BETTER_THAN_INCUMBENT = "BetterThanIncumbent"
    GAIN_BELOW_MINIMUM = "GainBelowMinimum"
    GAIN_WITHIN_NOISE = "GainWithinNoise"
    WORSE_THAN_INCUMBENT = "WorseThanIncumbent"
    WORSE_ON_BASE = "WorseOnBase"
    TOO_FEW_REQUESTS = "TooFewRequests"
    OTHER_MODEL = "OtherModel"
    NO_EVALUATION = "NoEvaluation"
    NOT_FINITE = "NotFinite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict with its reason; the message has both acceptance lengths and the gain with its interval."""

    verdict: Verdict
    reason: GateReason
    message: str


def judge(
    evaluation: Evaluation | None,
    *,
    min_gain: float,
    candidate_model_digest: str | None,
    serving_model_digest: str | None,
    min_requests: int = 200,
) -> Judgement:
    """Judge a candidate. `min_gain` is a fraction (0.02 for "2%"). A serving digest of None judges figures alone."""
    raise NotImplementedError
