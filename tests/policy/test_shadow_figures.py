"""A shadow's figures on the wire: read by versions that know less or more, and in nobody's sums."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from bowsprit_policy.counters import delta
from bowsprit_policy.wire import DrafterLoad, DrafterRole, DrafterState, EngineStats, ShadowScores, ShadowStats
from builders import drafter_stats, engine_stats

SHADOW = ShadowStats(
    state=DrafterState.ACTIVE,
    sequence_steps=40,
    squared_differences=90,
    candidate=ShadowScores(revision="m-head-2", reached=(40, 31), matched=(31, 20)),
    incumbent=ShadowScores(revision="m-head-1", reached=(40, 12), matched=(12, 3)),
    seconds=0.09,
    step_seconds=10.0,
)


def stats_with(shadow: ShadowStats | None) -> EngineStats:
    drafter = drafter_stats("head", reached=(9, 3), matched=(5, 1), proposed=9)
    return engine_stats(drafters=[drafter.model_copy(update={"shadow": shadow})])


def test_a_shadow_crosses_the_wire_whole() -> None:
    """In camelCase, and back to the same values."""
    text = stats_with(SHADOW).model_dump_json()
    assert EngineStats.model_validate_json(text) == stats_with(SHADOW)
    assert json.loads(text)["drafters"][0]["shadow"]["squaredDifferences"] == 90


def test_an_engine_that_knows_no_shadows_has_none() -> None:
    """It leaves the field out."""
    said = stats_with(None).model_dump(mode="json")
    del said["drafters"][0]["shadow"]
    assert EngineStats.model_validate(said) == stats_with(None)


def test_what_a_newer_engine_says_of_shadows_is_ignored() -> None:
    """At every depth."""
    said = stats_with(SHADOW).model_dump(mode="json")
    said["drafters"][0]["shadow"]["temperature"] = 1
    said["drafters"][0]["shadow"]["candidate"]["drafted"] = [1, 2]
    assert EngineStats.model_validate(said) == stats_with(SHADOW)


def test_what_is_estimated_is_the_same_with_a_shadow_and_without() -> None:
    """Control reads what was served."""
    assert delta(None, stats_with(SHADOW)) == delta(None, stats_with(None))


def test_a_load_without_a_role_is_to_serve_and_other_roles_are_refused() -> None:
    """As it was before there were shadows."""
    assert DrafterLoad.model_validate({"revision": "r"}).role is DrafterRole.SERVING
    assert DrafterLoad.model_validate({"revision": None, "role": "shadow"}).role is DrafterRole.SHADOW
    with pytest.raises(ValidationError, match="'serving' or 'shadow'"):
        DrafterLoad.model_validate({"revision": "r", "role": "canary"})
