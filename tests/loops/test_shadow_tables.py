"""A candidate's status in the shadow, as tables: what is written when, and what each pod is counted as."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bowsprit_operator.learning import shadowing, verdict
from bowsprit_operator.resources import conditions
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicy
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision, SpeculatorRevisionStatus
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import Observation, PodObservation
from bowsprit_policy.promotion import PromotionReason
from bowsprit_policy.shadow import ShadowFigures, ShadowInputs, ShadowJudgement, ShadowReason, ShadowState
from bowsprit_policy.wire import DrafterState, DrafterType, ShadowScores, ShadowStats
from builders import drafter_stats, engine_stats

BEGIN = datetime(2026, 11, 27, 8, tzinfo=UTC)
CANDIDATE = DesiredSpeculator(drafter="head", revision="m-head-2", uri="file:///s/2", sha256="b" * 64)
PINNED = PromotionReason.PINNED_BY_SPEC
SERVING = DesiredSpeculator(drafter="head", revision="m-head-1", uri="file:///s/1", sha256="b" * 64)
GIVEN = ShadowInputs(candidate="m-head-2", incumbent="m-head-1", pods=(), elapsed_seconds=30.0, limit_seconds=60.0)


def revision(*, is_begun: bool = True) -> SpeculatorRevision:
    """m-head-2, which passed the gate; in the shadow since BEGIN unless said otherwise."""
    artifact = {"uri": "file:///s/2", "sha256": "b" * 64, "bytes": 1}
    spec = {"modelName": "m", "drafter": "head", "number": 2, "modelDigest": "a" * 64, "artifact": artifact}
    passed = {"type": "Evaluated", "status": "True", "reason": "r", "lastTransitionTime": BEGIN.isoformat()}
    made = SpeculatorRevision.model_validate(
        {"metadata": {"name": "m-head-2"}, "spec": spec, "status": {"conditions": [passed]}}
    )
    if not is_begun:
        return made
    return made.model_copy(update={"status": shadowing.begun(made, message="beside m-head-1", now=BEGIN)})


def judgement(places: int, verdict: Verdict | None = None) -> ShadowJudgement:
    figures = ShadowFigures(
        pods=1,
        places=places,
        candidate_matched=2 * places,
        incumbent_matched=places,
        squared_differences=places,
    )
    reason = ShadowReason.SHADOWING if verdict is None else ShadowReason.WORSE_IN_SHADOW
    return ShadowJudgement(verdict=verdict, reason=reason, message=f"at {places} places", figures=figures)


def after(stored: SpeculatorRevision, *judgements: ShadowJudgement) -> SpeculatorRevisionStatus:
    """Its status when these were found, one a tick."""
    for found in judgements:
        status = shadowing.judged(stored, GIVEN, found, now=BEGIN + timedelta(seconds=15))
        stored = stored.model_copy(update={"status": status})
    return stored.status


@pytest.mark.parametrize(
    ("places", "written"),
    [((0,), 0), ((1,), 1), ((1, 1), 1), ((10, 19), 10), ((10, 20), 20), ((10, 19, 25), 25), ((10, 4), 10)],
)
def test_figures_are_written_when_there_are_twice_as_many_places(places: tuple[int, ...], written: int) -> None:
    """Each write wakes every watcher; those of a pod that restarted meanwhile are no news."""
    status = after(revision(), *map(judgement, places))
    assert status.shadow is not None
    assert (status.shadow.places, status.stage, status.shadow.start_time) == (written, "Shadow", BEGIN)


def test_the_end_is_written_whatever_was_before() -> None:
    """With all figures as decimal strings, and Rejected for what the shadow found."""
    status = after(revision(), judgement(10), judgement(12, Verdict.REJECTED))
    assert status.shadow is not None
    assert status.shadow.manifest() == {
        "startTime": "2026-11-27T08:00:00Z",
        "incumbent": "m-head-1",
        "pods": 1,
        "places": 12,
        "candidateMatched": "2",
        "incumbentMatched": "1",
        "difference": {"mean": "1", "low": "1", "high": "1"},
    }
    told = [(condition.type, condition.status.value, condition.reason) for condition in status.conditions]
    assert told == [
        ("Evaluated", "True", "r"),
        ("Shadowed", "False", "WorseInShadow"),
        ("Promoted", "False", "WorseInShadow"),
        ("Rejected", "True", "WorseInShadow"),
    ]
    assert status.stage == "Rejected"


def test_a_second_time_in_the_shadow_begins_with_nothing() -> None:
    """Another incumbent, another comparison."""
    stored = revision()
    stored = stored.model_copy(update={"status": after(stored, judgement(10))})
    status = shadowing.stopped(stored, serves=False, reason=PINNED, message="m-head-1 is pinned in spec", now=BEGIN)
    stopped = stored.model_copy(update={"status": status})
    again = shadowing.begun(stopped, message="again", now=BEGIN + timedelta(hours=1))
    assert again.shadow is not None
    assert (stopped.status.stage, again.stage) == ("Evaluated", "Shadow")
    assert (again.shadow.start_time, again.shadow.places) == (BEGIN + timedelta(hours=1), 0)


@pytest.mark.parametrize(("serves", "stage"), [(True, "Promoted"), (False, "Rejected")])
def test_a_rejected_revision_that_its_user_pins_is_told_as_serving(serves: bool, stage: str) -> None:
    """Rejected stays, as what the judges said."""
    stored = revision(is_begun=False)
    judges = verdict.rejected(stored, reason=ShadowReason.WORSE_IN_SHADOW, message="1.00, 2.00", now=BEGIN)
    stored = stored.model_copy(update={"status": judges})
    if serves:
        told = verdict.promoted(stored, reason=PINNED, message="m-head-2 is pinned in spec", now=BEGIN)
        stored = stored.model_copy(update={"status": told})
    assert stored.status.stage == stage
    assert conditions.is_true(stored.status.conditions, RevisionCondition.REJECTED)


SCORES = ShadowStats(
    state=DrafterState.ACTIVE,
    sequence_steps=40,
    candidate=ShadowScores(revision="m-head-2", matched=(20,)),
    incumbent=ShadowScores(revision="m-head-1", matched=(10,)),
)


def pod(name: str, shadow: dict[str, Any] | None = None, **said: Any) -> dict[str, Any]:
    """An acknowledgement as the DraftPolicy's status has it."""
    speculator = {"drafter": "head", "revision": "m-head-1", "state": "Active"} | ({"shadow": shadow} if shadow else {})
    return {"name": name, "uid": name, "speculators": [speculator]} | said


def given(*pods: dict[str, Any], scoring: tuple[str, ...] = (), stored: SpeculatorRevision | None = None) -> Any:
    """`scoring`: pods whose stats have SCORES."""
    policy = DraftPolicy.model_validate(
        {
            "metadata": {"name": "m"},
            "spec": {"revision": 1, "speculators": [SERVING.manifest()], "candidates": [CANDIDATE.manifest()]},
            "status": {"pods": list(pods)},
        }
    )
    head = drafter_stats("head", type=DrafterType.HEAD).model_copy(update={"shadow": SCORES})
    seen = tuple(PodObservation(uid=name, stats=engine_stats(drafters=[head])) for name in scoring)
    return shadowing.inputs(
        CANDIDATE,
        stored or revision(),
        policy=policy,
        observation=Observation(pods=seen),
        limit_seconds=60.0,
        now=BEGIN.timestamp() + 30.0,
    )


def test_each_pod_is_counted_as_what_it_acknowledged() -> None:
    """Scores belong to pods that say they score; one that has said nothing of this candidate yet is loading it."""
    found = given(
        pod("a", {"revision": "m-head-2", "state": "Scoring"}),
        pod("b", {"revision": "m-head-2", "state": "Refused", "message": "no memory"}),
        pod("c", {"revision": "m-head-0", "state": "Scoring"}),
        pod("d"),
        pod("e", speculators=[], message="no stats"),
        scoring=("a", "c"),
    )
    assert [(each.pod, each.state, each.message, each.stats) for each in found.pods] == [
        ("a", ShadowState.SCORING, "", SCORES),
        ("b", ShadowState.REFUSED, "no memory", None),
        ("c", ShadowState.LOADING, "", None),
        ("d", ShadowState.LOADING, "", None),
        ("e", ShadowState.LOADING, "no stats", None),
    ]
    assert (found.incumbent, found.elapsed_seconds, found.limit_seconds) == ("m-head-1", 30.0, 60.0)


def test_before_its_time_begins_nothing_is_judged() -> None:
    """The DraftPolicy may name it a write earlier than its status."""
    assert given(pod("a"), stored=revision(is_begun=False)) is None
