"""What pods say of a drafter, and what the table makes of it: broken, lowered, empty, and pods that disagree."""

from __future__ import annotations

import pytest

from bowsprit_policy import control
from bowsprit_policy.control import ControlStep
from bowsprit_policy.decision import TableReason
from bowsprit_policy.observation import Observation, PodObservation
from bowsprit_policy.table import caps_at
from bowsprit_policy.wire import DrafterState, DrafterType
from policy.simulated_service import SimulatedDrafter, SimulatedService, loop

ACTIVE, EMPTY, BROKEN, LOW = (
    DrafterState.ACTIVE,
    DrafterState.EMPTY,
    DrafterState.BROKEN,
    DrafterState.LOW_ACCEPTANCE,
)


def service() -> SimulatedService:
    """Look-up and a small model; both pay."""
    return SimulatedService(
        drafters=[
            SimulatedDrafter(name="suffix", type=DrafterType.SUFFIX, share=0.4, matches=(0.7,) * 8),
            SimulatedDrafter(name="small", type=DrafterType.MODEL, share=1.0, matches=(0.6,) * 8, unit_seconds=0.0001),
        ],
        step_seconds=lambda batch, rows: 0.010 + 0.0001 * rows,
    )


def seen(simulated: SimulatedService, state: control.ControlState, *states: DrafterState) -> ControlStep:
    """One tick in which a pod per given state of `small` answers."""
    pods = []
    for number, found in enumerate(states):
        stats = simulated.stats()
        small = stats.drafters[1].model_copy(update={"state": found, "reason": f"said by pod {number}"})
        told = stats.model_copy(update={"drafters": (stats.drafters[0], small)})
        pods.append(PodObservation(uid=f"pod-{number + 1}", stats=told))
    return control.step(state, Observation(pods=tuple(pods)), simulated.settings(), 1e6)


def test_a_drafter_that_an_engine_lowered_keeps_its_place_in_the_table() -> None:
    """The engine holds it and tries it again by itself: without a cap it never could."""
    simulated = service()
    before = loop(simulated, 8)[-1].state
    lowered = seen(simulated, before, LOW)
    assert lowered.table is None
    assert caps_at(lowered.state.table or (), 1)["small"] > 0


@pytest.mark.parametrize("others", [(BROKEN,), (LOW,), (EMPTY,), (BROKEN, EMPTY)])
def test_a_drafter_drafts_where_one_pod_of_the_fleet_can(others: tuple[DrafterState, ...]) -> None:
    """The table is the fleet's; a pod that can't goes without."""
    simulated = service()
    before = loop(simulated, 8)[-1].state
    mixed = seen(simulated, before, *others, ACTIVE)
    assert caps_at(mixed.state.table or (), 1)["small"] > 0


@pytest.mark.parametrize(
    ("states", "reason", "said"),
    [
        ((BROKEN,), TableReason.DRAFTER_BROKEN, "small is Broken: said by pod 0"),
        ((EMPTY,), TableReason.DRAFTER_UNAVAILABLE, "small is Empty: said by pod 0"),
        ((EMPTY, BROKEN), TableReason.DRAFTER_BROKEN, "small is Broken: said by pod 1"),
    ],
)
def test_a_small_model_that_no_pod_can_use_leaves_the_table_with_the_reason(
    states: tuple[DrafterState, ...], reason: TableReason, said: str
) -> None:
    """Its self-test failed everywhere, say; look-up goes on with at least what it had."""
    simulated = service()
    before = loop(simulated, 8)[-1].state
    after = seen(simulated, before, *states)
    was, now = (caps_at(state.table or (), 1) for state in (before, after.state))
    assert (after.reason, list(now)) == (reason, ["suffix"])
    assert now["suffix"] >= was["suffix"]
    assert after.message.startswith(said)
