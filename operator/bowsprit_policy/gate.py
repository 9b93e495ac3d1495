"""May this candidate serve? Judged on measured acceptance lengths alone, never on a training loss.

Passes when, over at least `min_requests` held-out requests, the recent gain is at least the minimum and the low end of
its interval is above 0 (better for sure, and by enough at the best estimate), and the base sample, where there is
one, is not below -1 %. Asking for a low end above the minimum would refuse most true gains at 200 requests.
Refuses to know how the figures came about, and doesn't promote: see promotion.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy import record
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.wire import Comparison, Evaluation

MIN_REQUESTS = 200
MAX_BASE_LOSS = 0.01


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
class GateInputs:
    """Everything that a judgement looks at."""

    evaluation: Evaluation | None
    min_gain: float
    candidate_model_digest: str | None
    serving_model_digest: str | None
    min_requests: int = MIN_REQUESTS


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
    min_requests: int = MIN_REQUESTS,
) -> Judgement:
    """Judge a candidate. `min_gain` is a fraction (0.02 for "2%"). A serving digest of None judges figures alone."""
    return decide(
        GateInputs(
            evaluation=evaluation,
            min_gain=min_gain,
            candidate_model_digest=candidate_model_digest,
            serving_model_digest=serving_model_digest,
            min_requests=min_requests,
        )
    )


def rejection(
    inputs: GateInputs, judgement: Judgement, *, candidate: str, incumbent: str | None, now: float
) -> Decision:
    """A rejection as a decision, for status and the log. (A pass is decided on by promotion.py.)"""
    return Decision(
        at=now,
        kind=DecisionKind.REJECT,
        reason=judgement.reason,
        message=f"{candidate}: {judgement.message}",
        before=incumbent or "untrained",
        after=incumbent or "untrained",
        record=record.line(kind=DecisionKind.REJECT, at=now, inputs=inputs, outcome=judgement),
    )


def decide(inputs: GateInputs) -> Judgement:
    """The same, from one value."""
    evaluation = inputs.evaluation
    if inputs.serving_model_digest is not None and inputs.candidate_model_digest != inputs.serving_model_digest:
        return _rejected(
            GateReason.OTHER_MODEL,
            f"trained for model {_short(inputs.candidate_model_digest)}, "
            f"serving is {_short(inputs.serving_model_digest)}",
        )
    if evaluation is None:
        return _rejected(GateReason.NO_EVALUATION, "the run reported no evaluation")
    recent, base = evaluation.recent, evaluation.base
    figures = f"recent holdout: {_figures(recent)}"
    if base is not None:
        figures += f"; base: {_figures(base)}"
    if not all(map(_is_finite, [recent] if base is None else [recent, base])):
        return _rejected(GateReason.NOT_FINITE, f"a figure is not finite; {figures}")
    if recent.gain.requests < inputs.min_requests:
        return _rejected(GateReason.TOO_FEW_REQUESTS, f"needs {inputs.min_requests} held-out requests; {figures}")
    if recent.gain.mean < 0:
        return _rejected(GateReason.WORSE_THAN_INCUMBENT, figures)
    if recent.gain.mean < inputs.min_gain:
        return _rejected(GateReason.GAIN_BELOW_MINIMUM, f"needs {inputs.min_gain:+.1%}; {figures}")
    if recent.gain.low <= 0:
        return _rejected(GateReason.GAIN_WITHIN_NOISE, f"the gain may be none; {figures}")
    if base is not None and base.gain.mean < -MAX_BASE_LOSS:
        return _rejected(GateReason.WORSE_ON_BASE, f"may lose at most {MAX_BASE_LOSS:.0%} on the base; {figures}")
    return Judgement(verdict=Verdict.PASSED, reason=GateReason.BETTER_THAN_INCUMBENT, message=figures)


def _rejected(reason: GateReason, message: str) -> Judgement:
    return Judgement(verdict=Verdict.REJECTED, reason=reason, message=message)


def _figures(of: Comparison) -> str:
    return (
        f"acceptance length {of.incumbent.mean:.3f} without, {of.candidate.mean:.3f} with the candidate, "
        f"gain {of.gain.mean:+.1%} [{of.gain.low:+.1%}, {of.gain.high:+.1%}] on {of.gain.requests} requests"
    )


def _is_finite(of: Comparison) -> bool:
    intervals = (of.incumbent, of.candidate, of.gain)
    return all(math.isfinite(x) for interval in intervals for x in (interval.mean, interval.low, interval.high))


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
