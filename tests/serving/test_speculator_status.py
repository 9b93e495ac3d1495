"""What status says of trained speculators: what should serve, what pods serve, and what drafts in the shadow."""

from typing import Any

import pytest

from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.summaries import ModelSummary
from serving.composed import compose, found
from serving.objects import TRAINED, a_model, a_policy

WANTED = ({"drafter": "head", "revision": "m-head-2", "uri": "file:///s", "sha256": "0" * 64},)


def acknowledged(revision: str | None, state: str = "Active", message: str | None = None) -> dict[str, Any]:
    """What pod m-1 says about its head."""
    return {
        "name": "m-1",
        "uid": "uid-m-1",
        "revision": 3,
        "speculators": [{"drafter": "head", "revision": revision, "state": state}],
        "message": message,
    }


@pytest.mark.parametrize(
    ("policy", "status_", "reason"),
    [
        (None, "False", "Untrained"),
        (a_policy(), "False", "Untrained"),
        (a_policy(speculators=WANTED), "False", "SpeculatorLoading"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-1"),)), "False", "SpeculatorLoading"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-2"),)), "True", "SpeculatorLoaded"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-2", "Broken"),)), "False", "SpeculatorRefused"),
    ],
)
def test_the_speculator_is_current_when_every_pod_has_acknowledged_it(policy: Any, status_: str, reason: str) -> None:
    """The DraftPolicy is the only desired state."""
    written = compose(a_model(**TRAINED), policy=policy)
    assert found(written, ModelCondition.SPECULATOR_CURRENT)[:2] == (status_, reason)


def test_an_image_that_cannot_train_is_named_where_the_user_looks() -> None:
    """Only the user can mend it: what the learning loop said of it is in the condition."""
    told = ModelSummary(learning_reason="ImageRefusesFlags", learning_message="image mine:1 is too old")
    written = compose(a_model(**TRAINED), summary=told)
    assert found(written, ModelCondition.SPECULATOR_CURRENT)[1:] == (
        "Untrained",
        "no revision is promoted (ImageRefusesFlags): image mine:1 is too old",
    )


def test_a_pinned_revision_that_does_not_exist_is_named() -> None:
    """A typing error in git must not look like training."""
    spec = TRAINED | {"speculation": {"drafters": [{"name": "head", "type": "Head", "revision": "m-head-9"}]}}
    expected = ("False", "RevisionMissing", "SpeculatorRevision m-head-9 doesn't exist")
    assert found(compose(a_model(**spec)), ModelCondition.SPECULATOR_CURRENT) == expected


def test_speculators_in_use_show_what_their_evaluation_measured() -> None:
    """Rounded to two decimals."""
    interval = {"mean": "2.3456", "low": "2.2", "high": "2.5", "requests": 200}
    revision = SpeculatorRevision.model_validate(
        {
            "metadata": {"name": "m-head-2", "namespace": "ns"},
            "spec": {
                "modelName": "m",
                "drafter": "head",
                "number": 2,
                "modelDigest": "d" * 64,
                "artifact": {"uri": "file:///s", "sha256": "0" * 64, "bytes": 1},
                "evaluation": {"recent": {"incumbent": interval, "candidate": interval, "gain": interval}},
            },
        }
    )
    written = compose(a_model(**TRAINED), policy=a_policy(speculators=WANTED), revisions=(revision,))
    assert [speculator.manifest() for speculator in written.speculators] == [
        {"name": "head", "revision": "m-head-2", "role": "Serving", "acceptanceLength": "2.35"}
    ]


CANDIDATES = (WANTED[0] | {"revision": "m-head-3"},)


def test_a_candidate_is_shown_beside_what_serves() -> None:
    """By its role; SpeculatorCurrent is about what serves, and names it."""
    policy = a_policy(speculators=WANTED, candidates=CANDIDATES, pods=(acknowledged("m-head-2"),))
    written = compose(a_model(**TRAINED), policy=policy)
    in_use = [(entry.name, entry.revision, entry.role.value) for entry in written.speculators]
    assert in_use == [("head", "m-head-2", "Serving"), ("head", "m-head-3", "Shadow")]
    expected = ("True", "SpeculatorLoaded", "m-head-2 serves on 1 pods; m-head-3 drafts in the shadow")
    assert found(written, ModelCondition.SPECULATOR_CURRENT) == expected


def test_a_first_candidate_is_why_nothing_is_promoted_yet() -> None:
    """Whoever waits for the first head sees that there is one."""
    written = compose(a_model(**TRAINED), policy=a_policy(candidates=CANDIDATES))
    message = "no revision is promoted; m-head-3 passed the gate and drafts in the shadow"
    assert found(written, ModelCondition.SPECULATOR_CURRENT) == ("False", "SpeculatorInShadow", message)
