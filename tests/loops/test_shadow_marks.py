"""What is written of a candidate that stops being one, and of one that begins: without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bowsprit_operator import shadow_stage
from bowsprit_operator.learning import shadowing
from bowsprit_operator.learning.desired import Choice
from bowsprit_operator.resources import conditions
from bowsprit_operator.resources.draft_policy import DesiredSpeculator
from bowsprit_operator.resources.speculator_revision import (
    RevisionStage,
    SpeculatorRevision,
    SpeculatorRevisionStatus,
)
from bowsprit_policy.promotion import PromotionReason
from loops.learning_objects import a_model, a_revision

BEGAN = datetime(2026, 11, 27, 8, tzinfo=UTC)
LATER = BEGAN + timedelta(minutes=5)
CANDIDATE = DesiredSpeculator(drafter="head", revision="m-head-2", uri="file:///s/2", sha256="b" * 64)


class WrittenTo:
    """The API server, by what is written to it."""

    def __init__(self) -> None:
        self.statuses: dict[str, SpeculatorRevisionStatus] = {}

    async def apply_status(self, resource: SpeculatorRevision, status: Any, *, manager: str) -> None:
        self.statuses[resource.name] = status


def in_the_shadow() -> SpeculatorRevision:
    revision = a_revision(2, is_shadowed=False)
    return revision.model_copy(update={"status": shadowing.begun(revision, message="drafts beside", now=BEGAN)})


def chosen(
    *, speculator: DesiredSpeculator | None = None, candidate: DesiredSpeculator | None = None, why: PromotionReason
) -> Choice:
    return Choice(
        drafter="head", speculator=speculator, candidate=candidate, reason=why, message="because", decision=None
    )


async def marked(
    *choices: Choice, before: tuple[DesiredSpeculator, ...] = (CANDIDATE,)
) -> tuple[SpeculatorRevision, WrittenTo]:
    cluster: Any = WrittenTo()
    (revision,) = await shadow_stage.mark(
        cluster, a_model(), choices, (in_the_shadow(),), before=before, now=LATER.timestamp()
    )
    return revision, cluster


def said(revision: SpeculatorRevision, type_: str) -> tuple[str, str, str]:
    condition = conditions.find(revision.status.conditions, type_)
    assert condition is not None, f"no condition {type_}"
    return condition.status.value, condition.reason, condition.message


async def test_a_candidate_whose_drafter_left_the_spec_says_so() -> None:
    """It is no candidate of anybody; it may be again, when the drafter comes back."""
    revision, cluster = await marked()
    gone = "the spec has no drafter head of type Head any more"
    assert said(revision, "Shadowed") == ("Unknown", "Stopped", gone)
    assert said(revision, "Promoted") == ("False", "DrafterRemoved", gone)
    assert (revision.status.stage, list(cluster.statuses)) == (RevisionStage.EVALUATED, ["m-head-2"])


async def test_a_candidate_that_its_user_pins_serves_and_its_shadow_is_over() -> None:
    """The reason is the user's."""
    revision, _ = await marked(chosen(speculator=CANDIDATE, why=PromotionReason.PINNED_BY_SPEC))
    assert said(revision, "Promoted") == ("True", "PinnedBySpec", "because")
    assert said(revision, "Shadowed")[:2] == ("Unknown", "Stopped")


async def test_a_candidate_that_another_displaced_does_not_serve() -> None:
    """A newer one passed the gate, say."""
    revision, _ = await marked(chosen(why=PromotionReason.IN_SHADOW))
    assert said(revision, "Promoted") == ("False", "InShadow", "because")


async def test_one_that_stays_the_candidate_keeps_its_time() -> None:
    """Nothing is written."""
    revision, cluster = await marked(chosen(candidate=CANDIDATE, why=PromotionReason.IN_SHADOW))
    assert revision.status.shadow is not None
    assert (revision.status.shadow.start_time, cluster.statuses) == (BEGAN, {})


async def test_one_that_the_policy_did_not_list_begins_anew() -> None:
    """An earlier model of this name left it in the shadow."""
    revision, _ = await marked(chosen(candidate=CANDIDATE, why=PromotionReason.IN_SHADOW), before=())
    assert revision.status.shadow is not None
    assert revision.status.shadow.start_time == LATER
