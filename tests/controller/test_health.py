"""What the health port says, and which model a watched object is about, without an API server."""

from __future__ import annotations

from typing import Any

import pytest

from bowsprit_operator.metrics import unhealthy_because
from bowsprit_operator.reconcile import ObjectKey
from bowsprit_operator.resources import kinds
from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.watch import WATCHED, WatchAges, key_of


@pytest.mark.parametrize(
    ("ages", "cause"),
    [
        ({"pods": 1.0}, None),
        ({"pods": 180.0}, None),
        ({"pods": 181.0, "jobs": 5.0, "services": 200.0}, "watches older than 180 s: pods 181 s, services 200 s"),
    ],
)
def test_a_watch_that_was_not_opened_for_too_long_is_unhealthy(ages: dict[str, float], cause: str | None) -> None:
    """kopf can lose a watch for good and go on; then only a restart helps."""
    assert unhealthy_because(ages, limit_seconds=180) == cause


def test_every_watched_kind_has_an_age_from_the_start() -> None:
    """One that never opens grows old too."""
    assert set(WatchAges().ages()) == {kind.plural for kind in WATCHED}


@pytest.mark.parametrize(
    ("kind", "body", "name"),
    [
        (kinds.SPECULATIVE_MODEL, {"metadata": {"name": "m"}}, "m"),
        (kinds.DRAFT_POLICY, {"metadata": {"name": "m"}}, "m"),
        (kinds.SPECULATOR_TRAINING, {"metadata": {"name": "x"}, "spec": {"modelName": "m"}}, "m"),
        (kinds.SPECULATOR_REVISION, {"metadata": {"name": "x"}, "spec": {"modelName": "m"}}, "m"),
        (kinds.POD, {"metadata": {"name": "x", "labels": {"bowsprit.dev/model": "m"}}}, "m"),
        (kinds.POD, {"metadata": {"name": "x"}}, None),
    ],
)
def test_an_event_is_about_one_model(kind: Kind, body: dict[str, Any], name: str | None) -> None:
    """Its namespace and name, and nothing about what happened."""
    body["metadata"]["namespace"] = "ns"
    expected = None if name is None else ObjectKey(namespace="ns", name=name)
    assert key_of(kind, body) == expected
