"""Promotion in one stage: the newest revision that passed, unless the user pins one or the target changed."""

from __future__ import annotations

import pytest

from bowsprit_policy import promotion
from bowsprit_policy.decision import DecisionKind
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import PromotionMode
from bowsprit_policy.promotion import PromotionReason, PromotionStep, Revision
from bowsprit_policy.replay import replay

OURS, OTHER = "a" * 64, "b" * 64
AUTO, MANUAL = PromotionMode.AUTO, PromotionMode.MANUAL


def revision(
    number: int, verdict: Verdict | None = Verdict.PASSED, *, digest: str = OURS, bad: bool = False
) -> Revision:
    return Revision(name=f"m-head-{number}", number=number, model_digest=digest, verdict=verdict, is_rolled_back=bad)


def stepped(
    *revisions: Revision,
    serving: str | None = None,
    mode: PromotionMode = AUTO,
    pinned: str | None = None,
    digest: str | None = OURS,
) -> PromotionStep:
    return promotion.step(serving=serving, revisions=revisions, mode=mode, pinned=pinned, model_digest=digest, now=7.0)


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
    assert (step.serving, step.reason) == (serving, reason)


def test_what_stays_is_no_decision() -> None:
    """Status lists changes only."""
    assert stepped(revision(1), serving="m-head-1").decision is None


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (stepped(revision(1)), DecisionKind.PROMOTE),
        (stepped(revision(1), serving="m-head-1", digest=OTHER), DecisionKind.ROLLBACK),
    ],
)
def test_a_change_is_a_decision_that_replays(step: PromotionStep, kind: DecisionKind) -> None:
    """From its line alone."""
    assert step.decision is not None
    assert (step.decision.kind, replay(step.decision.record).is_same) == (kind, True)
