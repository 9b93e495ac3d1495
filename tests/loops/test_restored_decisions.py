"""What a new leader takes over of the decisions that status tells."""

from __future__ import annotations

from datetime import UTC, datetime

from bowsprit_operator.control_loop import decisions_of
from bowsprit_operator.resources.speculative_model import DecisionEntry


def test_a_decision_of_a_kind_that_another_version_knows_is_left_out() -> None:
    """An operator that was rolled back finds what the newer one wrote, and goes on."""
    said = {"time": datetime(2026, 11, 27, 8, tzinfo=UTC), "reason": "r", "message": "m"}
    entries = [DecisionEntry.model_validate(said | {"kind": kind}) for kind in ("Scale", "Promote", "Train")]
    assert [decision.kind for decision in decisions_of(entries)] == ["Promote", "Train"]
