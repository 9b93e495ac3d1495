"""The gate: a candidate serves only when it is measurably better on recent traffic and no worse on the base."""

from __future__ import annotations

import math

import pytest

from bowsprit_policy import gate
from bowsprit_policy.gate import GateInputs, GateReason, Judgement, Verdict
from bowsprit_policy.replay import replay
from bowsprit_policy.wire import Comparison, Evaluation, Interval

DIGEST = "a" * 64


def compared(gain: float, *, width: float = 0.02, requests: int = 240, incumbent: float = 1.7) -> Comparison:
    def interval(mean: float, half: float) -> Interval:
        return Interval(mean=mean, low=mean - half, high=mean + half, requests=requests)

    return Comparison(
        incumbent=interval(incumbent, 0.05),
        candidate=interval(incumbent * (1 + gain), 0.05),
        gain=interval(gain, width),
    )


def judged(recent: Comparison, base: Comparison | None = None, *, candidate: str | None = DIGEST) -> Judgement:
    return gate.judge(
        Evaluation(recent=recent, base=base),
        min_gain=0.02,
        candidate_model_digest=candidate,
        serving_model_digest=DIGEST,
    )


@pytest.mark.parametrize(
    ("recent", "base", "expected"),
    [
        (compared(0.12), None, (Verdict.PASSED, GateReason.BETTER_THAN_INCUMBENT)),
        (compared(0.12), compared(0.0), (Verdict.PASSED, GateReason.BETTER_THAN_INCUMBENT)),
        (compared(0.12), compared(-0.009), (Verdict.PASSED, GateReason.BETTER_THAN_INCUMBENT)),
        (compared(0.12), compared(-0.02), (Verdict.REJECTED, GateReason.WORSE_ON_BASE)),
        (compared(0.015, width=0.001), None, (Verdict.REJECTED, GateReason.GAIN_BELOW_MINIMUM)),
        (compared(0.03, width=0.04), None, (Verdict.REJECTED, GateReason.GAIN_WITHIN_NOISE)),
        (compared(-0.05), None, (Verdict.REJECTED, GateReason.WORSE_THAN_INCUMBENT)),
        (compared(0.5, requests=199), None, (Verdict.REJECTED, GateReason.TOO_FEW_REQUESTS)),
        (compared(math.nan), None, (Verdict.REJECTED, GateReason.NOT_FINITE)),
        (compared(0.12), compared(math.inf), (Verdict.REJECTED, GateReason.NOT_FINITE)),
    ],
)
def test_a_candidate_is_judged_by_its_figures(
    recent: Comparison, base: Comparison | None, expected: tuple[Verdict, GateReason]
) -> None:
    """Each row is one way to pass or to fail."""
    judgement = judged(recent, base)
    assert (judgement.verdict, judgement.reason) == expected


def test_a_rejection_has_both_numbers() -> None:
    """And the interval of the gain, and on how many requests."""
    expected = (
        "needs +2.0%; recent holdout: acceptance length 1.700 without, 1.717 with the candidate, "
        "gain +1.0% [-1.0%, +3.0%] on 240 requests"
    )
    assert judged(compared(0.01)).message == expected


def test_a_candidate_for_another_model_is_rejected_whatever_its_figures() -> None:
    """The target may have changed while it was trained."""
    assert judged(compared(0.5), candidate="b" * 64).reason is GateReason.OTHER_MODEL


def test_a_run_without_an_evaluation_is_rejected() -> None:
    """Nothing is promoted on faith."""
    judgement = gate.judge(None, min_gain=0.02, candidate_model_digest=DIGEST, serving_model_digest=DIGEST)
    assert (judgement.verdict, judgement.reason) == (Verdict.REJECTED, GateReason.NO_EVALUATION)


def test_a_recorded_rejection_replays() -> None:
    """From its line alone."""
    inputs = GateInputs(
        evaluation=Evaluation(recent=compared(0.01)),
        min_gain=0.02,
        candidate_model_digest=DIGEST,
        serving_model_digest=DIGEST,
    )
    decision = gate.rejection(inputs, gate.decide(inputs), candidate="m-head-2", incumbent="m-head-1", now=5.0)
    assert (decision.before, decision.after, replay(decision.record).is_same) == ("m-head-1", "m-head-1", True)
