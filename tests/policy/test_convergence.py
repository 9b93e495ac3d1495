"""The loop as a whole: from any start it ends near the truly best caps, and stays there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bowsprit_policy.table import caps_at
from bowsprit_policy.wire import DrafterType
from policy.simulated_service import SimulatedDrafter, SimulatedService, loop

CURVES: dict[str, Callable[[int, int], float]] = {
    "flat": lambda b, r: 0.010 + 0.0001 * r,
    "cpu": lambda b, r: 0.0035 + 0.0004 * r,
    "saturating": lambda b, r: 0.004 + (0.0003 * r if r <= 8 else 0.0024 + 0.0009 * (r - 8)),
    "stepped": lambda b, r: 0.004 + 0.002 * (-(-r // 8)),
}


def pool(share: float, ngram: float, *head: float) -> list[SimulatedDrafter]:
    padded = (*head, *[head[-1]] * (8 - len(head)))
    return [
        SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=share, matches=(ngram,) * 8),
        SimulatedDrafter(name="head", type=DrafterType.HEAD, share=1.0, matches=padded, unit_seconds=0.0002),
    ]


POOLS: dict[str, Callable[[], list[SimulatedDrafter]]] = {
    "both help": lambda: pool(0.4, 0.7, 0.65, 0.5, 0.4, 0.3),
    "head useless": lambda: pool(0.5, 0.8, 0.05),
    "ngram rare": lambda: pool(0.05, 0.3, 0.8, 0.75, 0.7),
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("drafters", POOLS)
@pytest.mark.parametrize("curve", CURVES)
def test_the_loop_ends_within_a_few_percent_of_the_best_and_stays(curve: str, drafters: str, batch: int) -> None:
    """In 25 ticks within 4 % of the true optimum (2 % is the least gain it moves for), then at most one more move.

    Within 6 % where the curve has steps: drafting time is spread over cells by their rows, which misplaces an edge.
    """
    service = SimulatedService(
        drafters=POOLS[drafters](), step_seconds=CURVES[curve], batch=batch, steps_per_tick=600, max_batch_size=4
    )
    steps = loop(service, 25)
    table = steps[-1].state.table
    assert table is not None
    reached = service.true_goodput(caps_at(table, batch), batch) / service.best_goodput(batch)
    assert reached >= (0.94 if curve == "stepped" else 0.96)
    later = loop(service, 10, state=steps[-1].state)
    assert sum(len(step.decisions) for step in later) <= 1


def test_it_follows_a_workload_that_changes() -> None:
    """Prose (look-up seldom matches), then a code-like stream that repeats itself: K rises; and back."""
    service = SimulatedService(drafters=pool(0.1, 0.3, 0.3), step_seconds=CURVES["cpu"], steps_per_tick=1000)
    prose = loop(service, 15)
    service.drafters[0].share, service.drafters[0].matches = 0.8, (0.95,) * 8
    code = loop(service, 15, state=prose[-1].state)
    service.drafters[0].share, service.drafters[0].matches = 0.1, (0.3,) * 8
    again = loop(service, 45, state=code[-1].state)
    caps = [caps_at(steps[-1].state.table or (), 1)["ngram"] for steps in (prose, code, again)]
    assert caps[0] <= 3 < 6 <= caps[1]
    assert caps[2] <= 3


def test_the_measured_speedup_is_the_true_one() -> None:
    """Against K=0 probes at the same batch, within 5 %."""
    service = SimulatedService(drafters=pool(0.4, 0.7, 0.65, 0.5), step_seconds=CURVES["cpu"], steps_per_tick=1500)
    steps = loop(service, 20)
    caps = caps_at(steps[-1].state.table or (), 1)
    expected = service.true_goodput(caps, 1) / service.true_goodput({}, 1)
    assert steps[-1].summary.speedup == pytest.approx(expected, rel=0.05)
