"""The shadow's verdict as tables: what pods scored on the left, whether the candidate goes on on the right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bowsprit_policy import shadow
from bowsprit_policy.gate import Verdict
from bowsprit_policy.replay import replay
from bowsprit_policy.shadow import PodShadow, ShadowFigures, ShadowInputs, ShadowJudgement, ShadowReason, ShadowState
from bowsprit_policy.wire import DrafterState, ShadowScores, ShadowStats

CANDIDATE, INCUMBENT = "m-head-2", "m-head-1"
PASSED, REJECTED = Verdict.PASSED, Verdict.REJECTED
MINUTE = 60.0


def scores(revision: str, counts: Sequence[int]) -> ShadowScores:
    """`counts`: matched tokens of each place, as the engine adds them up by position (drafts of 4)."""
    matched = tuple(sum(count > position for count in counts) for position in range(4))
    return ShadowScores(revision=revision, reached=(len(counts), *matched[:3]), matched=matched)


def stats(
    candidate: Sequence[int], incumbent: Sequence[int] | None, *, of: str = CANDIDATE, against: str = INCUMBENT
) -> ShadowStats:
    """Pairs of matched tokens, place by place; `incumbent` None: no revision serves."""
    squares = 0 if incumbent is None else sum((a - b) ** 2 for a, b in zip(candidate, incumbent, strict=True))
    return ShadowStats(
        state=DrafterState.ACTIVE,
        sequence_steps=len(candidate),
        squared_differences=squares,
        candidate=scores(of, candidate),
        incumbent=None if incumbent is None else scores(against, incumbent),
    )


def pod(given: ShadowStats | None, name: str = "m-a", state: ShadowState = ShadowState.SCORING) -> PodShadow:
    return PodShadow(pod=name, state=state, stats=given)


def unable(name: str, state: ShadowState = ShadowState.REFUSED) -> PodShadow:
    return PodShadow(pod=name, state=state, message="no memory")


def judged(*pods: PodShadow, after: float = MINUTE, incumbent: str | None = INCUMBENT) -> ShadowJudgement:
    return shadow.decide(given(*pods, after=after, incumbent=incumbent))


def given(*pods: PodShadow, after: float = MINUTE, incumbent: str | None = INCUMBENT) -> ShadowInputs:
    return ShadowInputs(
        candidate=CANDIDATE, incumbent=incumbent, pods=pods, elapsed_seconds=after, limit_seconds=10 * MINUTE
    )


MIXED = (0, 1, 2, 4, 1, 0, 3, 1)  # of one drafter at eight places
FEWER = (0, 0, 1, 3, 0, 0, 2, 1)
BETTER, WORSE, EQUAL = stats(MIXED * 10, FEWER * 10), stats(FEWER * 10, MIXED * 10), stats(MIXED * 10, MIXED[::-1] * 10)
FEW = stats(MIXED * 3, FEWER * 3)
ALONE, NOTHING = stats(MIXED * 10, None), stats((0,) * 80, None)
OLD = ShadowState.UNSUPPORTED


@pytest.mark.parametrize(
    ("judgement", "verdict", "reason"),
    [
        # as soon as it is sure
        (judged(pod(BETTER)), PASSED, ShadowReason.BETTER_IN_SHADOW),
        (judged(pod(WORSE)), REJECTED, ShadowReason.WORSE_IN_SHADOW),
        (judged(pod(EQUAL)), None, ShadowReason.SHADOWING),
        (judged(pod(FEW)), None, ShadowReason.SHADOWING),
        # pods' evidence adds up; who can't score is left out, who scores others too
        (judged(pod(FEW), pod(FEW, "m-b")), PASSED, ShadowReason.BETTER_IN_SHADOW),
        (judged(pod(BETTER), unable("m-b"), unable("m-c", OLD)), PASSED, ShadowReason.BETTER_IN_SHADOW),
        (judged(pod(stats(FEWER * 10, MIXED * 10, of="m-head-9"))), None, ShadowReason.SHADOWING),
        (judged(pod(stats(FEWER * 10, MIXED * 10, against="m-head-0"))), None, ShadowReason.SHADOWING),
        (judged(pod(ALONE)), None, ShadowReason.SHADOWING),
        # nothing waits for pods that can't
        (judged(unable("m-a"), unable("m-b", OLD)), PASSED, ShadowReason.NO_POD_SHADOWS),
        (judged(pod(None, state=ShadowState.LOADING), unable("m-b")), None, ShadowReason.SHADOWING),
        (judged(), None, ShadowReason.SHADOWING),
        # nor for ever
        (judged(pod(EQUAL), after=10 * MINUTE), PASSED, ShadowReason.NOT_WORSE_IN_SHADOW),
        (judged(pod(FEW), after=10 * MINUTE), PASSED, ShadowReason.TOO_FEW_PLACES),
        (judged(pod(None, state=ShadowState.LOADING), after=10 * MINUTE), PASSED, ShadowReason.TOO_FEW_PLACES),
        (judged(after=10 * MINUTE), PASSED, ShadowReason.TOO_FEW_PLACES),
        (judged(pod(WORSE), after=10 * MINUTE), REJECTED, ShadowReason.WORSE_IN_SHADOW),
        # the first revision of all drafts beside nobody
        (judged(pod(ALONE), incumbent=None), PASSED, ShadowReason.BETTER_IN_SHADOW),
        (judged(pod(NOTHING), incumbent=None), None, ShadowReason.SHADOWING),
        (judged(pod(NOTHING), incumbent=None, after=10 * MINUTE), REJECTED, ShadowReason.MATCHES_NOTHING),
        # a fault is a fault, whatever the figures were
        (judged(pod(BETTER, state=ShadowState.BROKEN)), REJECTED, ShadowReason.BROKEN_IN_SHADOW),
        (judged(pod(BETTER), pod(None, "m-b", ShadowState.BROKEN)), REJECTED, ShadowReason.BROKEN_IN_SHADOW),
    ],
)  # fmt: skip
def test_whether_a_candidate_goes_on(judgement: ShadowJudgement, verdict: Verdict | None, reason: str) -> None:
    """Each row is one situation; None: it stays in the shadow."""
    assert (judgement.verdict, judgement.reason) == (verdict, reason)


def test_the_words_have_both_numbers_the_difference_and_who_could_not_score() -> None:
    """From them alone a person can tell how sure it is."""
    message = judged(pod(WORSE), unable("m-b")).message
    assert message.startswith("0.88 tokens matched per place, 1.50 by m-head-1, difference -0.62 [-0.")
    assert message.endswith("at 80 places of live text, 1 pods; not scored by m-b (Refused: no memory)")


def test_figures_are_sums_over_pods_and_their_spread_is_that_of_the_pairs() -> None:
    """As if one pod had scored all places; the interval's half-width is stated by its formula."""
    both = shadow.summed([pod(FEW), pod(FEW, "m-b")], candidate=CANDIDATE, incumbent=INCUMBENT)
    assert both == ShadowFigures(
        pods=2, places=48, candidate_matched=6 * 12, incumbent_matched=6 * 7, squared_differences=6 * 5
    )
    # variance 30/48 - 0.625² = 0.234375; (48 + 100) / 48² * ln(148 / (100 * 0.05²)) = 0.410052
    assert both.radius == pytest.approx((0.234375 * 0.410052) ** 0.5, rel=1e-4)


def test_without_an_incumbent_the_spread_is_that_of_the_candidates_own_counts() -> None:
    """The engine adds up no differences then: they follow from the counts by position."""
    alone = shadow.summed([pod(ALONE)], candidate=CANDIDATE, incumbent=None)
    assert alone.squared_differences == 10 * sum(count**2 for count in MIXED)


def test_looking_often_calls_few_equal_candidates_better_or_worse() -> None:
    """Of 200 that are exactly as good, looked at 60 times up to 600 places: at most one in twenty, as promised."""
    draw = random.Random(7)
    wrong = 0
    for _ in range(200):
        total = ShadowFigures(pods=1)
        for _ in range(60):
            ours, theirs = draw.choices((0, 1, 2, 4), k=10), draw.choices((0, 1, 2, 4), k=10)
            total = replace(
                total,
                places=total.places + 10,
                candidate_matched=total.candidate_matched + sum(ours),
                incumbent_matched=total.incumbent_matched + sum(theirs),
                squared_differences=total.squared_differences
                + sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)),
            )
            if total.places >= shadow.MIN_PLACES and abs(total.difference) > total.radius:
                wrong += 1
                break
    assert wrong <= 200 * shadow.ERROR_SHARE


def test_a_rejection_is_a_decision_that_replays() -> None:
    """From its line alone, and it isn't taken for one by the gate."""
    inputs = given(pod(WORSE), unable("m-b"))
    decision = shadow.rejection(inputs, shadow.decide(inputs), now=7.0)
    again = replay(decision.record)
    assert (decision.kind, decision.reason, decision.before, decision.after) == (
        "Reject",
        "WorseInShadow",
        INCUMBENT,
        INCUMBENT,
    )
    assert (again.is_same, again.recorded.inputs) == (True, inputs)
