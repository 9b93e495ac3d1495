"""What /metrics says of drafters: figures that mean what their names and help texts say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.server.metrics import EngineCollector
from bowsprit_policy.table import composed
from bowsprit_policy.wire import (
    DrafterState,
    DrafterStats,
    DrafterType,
    EngineStats,
    LoweredDrafter,
    PolicyStatus,
    ShadowScores,
    ShadowStats,
)
from builders import drafter_stats, engine_stats


@dataclass(slots=True, kw_only=True)
class Told:
    """An engine by its figures alone."""

    drafters: tuple[DrafterStats, ...] = ()
    table: PolicyStatus = field(default_factory=lambda: PolicyStatus(revision=1, table=()))

    def stats(self) -> EngineStats:
        return engine_stats(drafters=self.drafters)

    def policy(self) -> PolicyStatus:
        return self.table


def exported(told: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    EngineCollector(told, Capture(None), prefix="bowsprit", model_name="m").register(registry)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"bowsprit:{name}", {"model_name": "m", "engine": "0", **labels})


def test_what_look_up_would_have_got_is_matched_and_not_accepted() -> None:
    """Held at 0 it is scored by the emitted text: vLLM's counters hold what was verified."""
    scored = drafter_stats("suffix", reached=(9, 5), matched=(5, 3), accepted=(), drafted_tokens=0, opportunities=9)
    registry = exported(Told(drafters=(scored,)))
    assert value(registry, "spec_decode_matched_total", drafter="suffix", position="0") == 5.0
    assert value(registry, "spec_decode_num_accepted_tokens_per_pos_total", drafter="suffix", position="0") is None
    assert value(registry, "spec_decode_num_accepted_tokens_total", drafter="suffix") == 0.0


def test_accepted_tokens_by_position_add_up_to_accepted_tokens() -> None:
    """Whatever was scored beside."""
    used = drafter_stats("suffix", reached=(9, 5, 3), matched=(5, 3, 1), accepted=(4, 2, 1), drafted_tokens=12)
    registry = exported(Told(drafters=(used,)))
    name = "spec_decode_num_accepted_tokens_per_pos_total"
    by_position = [value(registry, name, drafter="suffix", position=str(n)) or 0.0 for n in range(3)]
    assert sum(by_position) == value(registry, "spec_decode_num_accepted_tokens_total", drafter="suffix") == 7.0
    assert value(registry, "spec_decode_wasted_draft_tokens_total", drafter="suffix") == 5.0


@pytest.mark.parametrize(
    ("few", "some", "lowered_at", "expected"),
    [
        (1, 4, (), [8, 6, 4]),
        (1, 4, (1,), [0, 6, 4]),
        (1, 4, (4,), [8, 0, 4]),
        (1, 4, (2, 16), [8, 0, 0]),
        (3, 6, (2,), [0, 6, 4]),
        (3, 6, (4,), [0, 0, 4]),
        (3, 6, (8,), [8, 0, 0]),
    ],
)
def test_a_drafter_that_the_engine_holds_lower_is_so_in_the_rows_of_those_batches(
    few: int, some: int, lowered_at: tuple[int, ...], expected: list[int]
) -> None:
    """Three rows, their limits within what an engine counts as one batch (3 and 4, 5 to 8) or between two of these."""
    table = composed([(few, {"suffix": 8}), (some, {"suffix": 6}), (16, {"suffix": 4})])
    held = LoweredDrafter(name="suffix", draft_tokens=0, batches=lowered_at, reason="LowAcceptance", message="loses")
    policy = PolicyStatus(revision=2, table=table, lowered=(held,) if lowered_at else ())
    registry = exported(Told(table=policy))
    name = "spec_decode_num_speculative_tokens"
    assert [value(registry, name, batch=batch, drafter="suffix") for batch in (f"{few}", f"{some}", "inf")] == expected


def test_nothing_of_a_shadow_is_in_the_figures_of_who_serves() -> None:
    """Its families are its own, by role."""
    shadow = ShadowStats(
        state=DrafterState.ACTIVE,
        sequence_steps=20,
        candidate=ShadowScores(revision="head-2", reached=(20, 9), matched=(9, 4)),
        incumbent=ShadowScores(revision="head-1", reached=(20, 7), matched=(7, 2)),
        seconds=0.5,
    )
    serving = drafter_stats("head", type=DrafterType.HEAD, revision="head-1", reached=(5,), matched=(3,))
    registry = exported(Told(drafters=(serving.model_copy(update={"shadow": shadow}),)))
    roles = [
        value(registry, "spec_decode_shadow_matched_total", drafter="head", role=role, position="0")
        for role in ("candidate", "incumbent")
    ]
    assert (roles, value(registry, "spec_decode_matched_total", drafter="head", position="0")) == ([9.0, 7.0], 3.0)
    labels = {"drafter": "head", "state": "Active", "candidate": "head-2", "incumbent": "head-1"}
    assert value(registry, "shadow_revision_info", **labels) == 1.0
    assert value(registry, "spec_decode_shadow_seconds_total", drafter="head") == 0.5


def test_every_family_has_a_help_text_of_its_own() -> None:
    """Two families of one text would be one figure under two names."""
    text = generate_latest(exported(Told(drafters=(drafter_stats(),)))).decode()
    helped = [line.removeprefix("# HELP ").split(" ", 1) for line in text.splitlines() if line.startswith("# HELP")]
    texts = [line[1] for line in helped]
    assert len(set(texts)) == len(texts) > 20
    assert [line[0] for line in helped if not line[1].endswith(".")] == []
