"""Promotion: the newest revision that passed, after its shadow, unless the user pins one or the target changed."""

from __future__ import annotations

import pytest

from bowsprit_policy import promotion
from bowsprit_policy.decision import DecisionKind
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import PromotionMode
from bowsprit_policy.promotion import PromotionInputs, PromotionReason, PromotionStep, Revision
from bowsprit_policy.replay import replay

OURS, OTHER = "a" * 64, "b" * 64
AUTO, MANUAL = PromotionMode.AUTO, PromotionMode.MANUAL


def revision(
    number: int,
    verdict: Verdict | None = Verdict.PASSED,
    *,
    digest: str = OURS,
    bad: bool = False,
    shadow: str | None = None,
) -> Revision:
    return Revision(
        name=f"m-head-{number}",
        number=number,
        model_digest=digest,
        verdict=verdict,
        is_rolled_back=bad,
        shadow=shadow,
    )


def stepped(
    *revisions: Revision,
    serving: str | None = None,
    mode: PromotionMode = AUTO,
    pinned: str | None = None,
    digest: str | None = OURS,
    candidate: str | None = None,
    seconds: float = 0.0,
) -> PromotionStep:
    """`seconds`: the longest time in the shadow; without, there is no such stage."""
    inputs = PromotionInputs(
        serving=serving,
        revisions=revisions,
        mode=mode,
        pinned=pinned,
        model_digest=digest,
        candidate=candidate,
        shadow_seconds=seconds,
    )
    return promotion.step(inputs, now=7.0)


@pytest.mark.parametrize(
    ("step", "serving", "reason"),
    [
        (stepped(), None, PromotionReason.NOTHING_NEW),
        (stepped(revision(1)), "m-head-1", PromotionReason.GATE_PASSED),
        (stepped(revision(1), revision(3), revision(2)), "m-head-3", PromotionReason.GATE_PASSED),
        (stepped(revision(1, Verdict.REJECTED)), None, PromotionReason.NOTHING_NEW),
        (stepped(revision(1, None)), None, PromotionReason.NOTHING_NEW),
        (stepped(revision(1), revision(2), serving="m-head-1"), "m-head-2", PromotionReason.GATE_PASSED),
        (stepped(revision(1), revision(2), serving="m-head-2"), "m-head-2", PromotionReason.NOTHING_NEW),
        (stepped(revision(1), revision(2, bad=True), serving="m-head-1"), "m-head-1", PromotionReason.NOTHING_NEW),
        (stepped(revision(1, digest=OTHER)), None, PromotionReason.NOTHING_NEW),
        (stepped(revision(1), serving="m-head-1", digest=OTHER), None, PromotionReason.TARGET_CHANGED),
        (stepped(revision(1), serving="m-head-1", digest=None), "m-head-1", PromotionReason.NOTHING_NEW),
        (stepped(serving="m-head-1"), None, PromotionReason.REVISION_MISSING),
        (stepped(revision(1), mode=MANUAL), None, PromotionReason.MANUAL),
        (stepped(revision(1), mode=MANUAL, pinned="m-head-1"), "m-head-1", PromotionReason.PINNED_BY_SPEC),
        (stepped(revision(1, Verdict.REJECTED), pinned="m-head-1"), "m-head-1", PromotionReason.PINNED_BY_SPEC),
        (
            stepped(revision(1), revision(2), serving="m-head-2", pinned="m-head-1"),
            "m-head-1",
            PromotionReason.PINNED_BY_SPEC,
        ),
        (stepped(revision(1, digest=OTHER), pinned="m-head-1"), None, PromotionReason.TARGET_CHANGED),
        (stepped(revision(1), serving="m-head-1", pinned="m-head-9"), "m-head-1", PromotionReason.REVISION_MISSING),
    ],
)
def test_which_revision_serves(step: PromotionStep, serving: str | None, reason: PromotionReason) -> None:
    """Each row is one situation; None is the untrained drafters."""
    assert (step.outcome.serving, step.outcome.candidate, step.outcome.reason) == (serving, None, reason)


IN_SHADOW, PASSED = PromotionReason.IN_SHADOW, PromotionReason.GATE_PASSED
ENDED = "0.62 more"


@pytest.mark.parametrize(
    ("step", "serving", "candidate", "reason"),
    [
        (stepped(revision(1), seconds=60), None, "m-head-1", IN_SHADOW),
        (stepped(revision(1), revision(2), serving="m-head-1", seconds=60), "m-head-1", "m-head-2", IN_SHADOW),
        (stepped(revision(1, shadow=ENDED), seconds=60), "m-head-1", None, PASSED),
        (stepped(revision(1, shadow=ENDED), seconds=0), "m-head-1", None, PASSED),
        # one that came later is the candidate; one that the shadow rejected makes way for the one before it
        (stepped(revision(2), revision(3), candidate="m-head-2", seconds=60), None, "m-head-3", IN_SHADOW),
        (stepped(revision(2), revision(3, Verdict.REJECTED), seconds=60), None, "m-head-2", IN_SHADOW),
        # who left the stage out, names a revision or has another model now has no candidate
        (stepped(revision(1), candidate="m-head-1", seconds=0), "m-head-1", None, PASSED),
        (stepped(revision(1), mode=MANUAL, seconds=60), None, None, PromotionReason.MANUAL),
        (stepped(revision(1), pinned="m-head-1", seconds=60), "m-head-1", None, PromotionReason.PINNED_BY_SPEC),
        (stepped(revision(1), candidate="m-head-1", digest=OTHER, seconds=60), None, None, PromotionReason.NOTHING_NEW),
    ],
)  # fmt: skip
def test_which_revision_drafts_in_the_shadow(
    step: PromotionStep, serving: str | None, candidate: str | None, reason: PromotionReason
) -> None:
    """What passed the gate serves after it."""
    assert (step.outcome.serving, step.outcome.candidate, step.outcome.reason) == (serving, candidate, reason)


def test_what_is_not_known_of_engines_yet_leaves_the_candidate_where_it_is() -> None:
    """A new leader that has heard no engine stops no shadow."""
    step = stepped(revision(1), revision(2), serving="m-head-1", candidate="m-head-2", digest=None, seconds=60)
    assert (step.outcome.serving, step.outcome.candidate, step.decision) == ("m-head-1", "m-head-2", None)


def test_a_candidate_is_told_once_and_its_promotion_says_how_the_shadow_ended() -> None:
    """Begin and end are decisions, what lies between is none."""
    old, new = revision(1), revision(2)
    begins = stepped(old, new, serving="m-head-1", seconds=60).decision
    goes_on = stepped(old, new, serving="m-head-1", candidate="m-head-2", seconds=60).decision
    ends = stepped(old, revision(2, shadow=ENDED), serving="m-head-1", candidate="m-head-2", seconds=60).decision
    assert begins is not None
    assert ends is not None
    assert goes_on is None
    assert [(each.kind, each.reason, each.before, each.after) for each in (begins, ends)] == [
        (DecisionKind.SHADOW, IN_SHADOW, "m-head-1", "m-head-2"),
        (DecisionKind.PROMOTE, PASSED, "m-head-1", "m-head-2"),
    ]
    assert ends.message == "m-head-2 passed the gate; in its shadow: 0.62 more"


def test_what_stays_is_no_decision() -> None:
    """Status lists changes only."""
    assert stepped(revision(1), serving="m-head-1").decision is None


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (stepped(revision(1)), DecisionKind.PROMOTE),
        (stepped(revision(1), seconds=60), DecisionKind.SHADOW),
        (stepped(revision(1), serving="m-head-1", digest=OTHER), DecisionKind.ROLLBACK),
    ],
)
def test_a_change_is_a_decision_that_replays(step: PromotionStep, kind: DecisionKind) -> None:
    """From its line alone."""
    assert step.decision is not None
    assert (step.decision.kind, replay(step.decision.record).is_same) == (kind, True)
