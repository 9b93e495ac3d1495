"""The curve C(b, r): measured beats profiled, steps of the curve stay steps, contention judges nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_policy import cost, goodput
from bowsprit_policy.cost import CostState
from bowsprit_policy.counters import CounterDelta, DrafterDelta
from bowsprit_policy.goodput import GoodputState
from bowsprit_policy.step_times import Node, StepTimes, monotone
from bowsprit_policy.wire import DrafterType, StepCell
from builders import profile, step_cell


def profiled(*cells: StepCell) -> CostState:
    return CostState(profile=cost.profiled([profile(cells)]))


def milliseconds(state: CostState, *, batch: int = 1, rows: float) -> float:
    return round(StepTimes(cost=state).seconds(batch=batch, rows=rows).value * 1e3, 2)


def measured(state: CostState, *cells: StepCell, drafters: tuple[DrafterDelta, ...] = ()) -> CostState:
    return cost.update(state, CounterDelta(cells=cells, drafters=drafters))


TWO = (step_cell(rows=1, milliseconds=10), step_cell(rows=5, milliseconds=14))


def test_between_profiled_rows_the_curve_is_straight_and_beyond_it_goes_on() -> None:
    """Flat below the first."""
    assert [milliseconds(profiled(*TWO), rows=r) for r in (1, 2, 5, 9)] == [10, 11, 14, 18]


def test_a_step_of_the_curve_stays_a_step() -> None:
    """8 rows fit a tile, 9 don't: nothing smooths that away."""
    state = profiled(*(step_cell(rows=r, milliseconds=10 if r <= 8 else 19) for r in range(1, 13)))
    assert [milliseconds(state, rows=r) for r in (7, 8, 9, 10)] == [10, 10, 19, 19]


def test_measured_cells_beat_profiled_ones() -> None:
    """And what was not measured keeps the profile's shape, scaled."""
    state = measured(profiled(*TWO), step_cell(rows=5, milliseconds=28, steps=100))
    assert [milliseconds(state, rows=r) for r in (1, 5)] == [20, 28]


def test_a_few_measured_steps_do_not_outvote_the_profile() -> None:
    """One odd step is no figure."""
    state = measured(profiled(*TWO), step_cell(rows=5, milliseconds=300, steps=3))
    assert milliseconds(state, rows=5) == 14


def test_without_a_profile_the_measured_steps_are_the_curve() -> None:
    """An engine of another version may give none."""
    state = measured(CostState(), *TWO)
    assert [milliseconds(state, rows=r) for r in (1, 3, 5)] == [10, 12, 14]


def test_without_any_figure_the_curve_is_unknown() -> None:
    """And says so."""
    assert not StepTimes(cost=CostState()).is_known


def test_the_quiet_steps_of_a_contended_tick_teach() -> None:
    """On a machine that is always shared there are no others, and the contended ones are not in their sums."""
    state = measured(profiled(*TWO), step_cell(rows=5, milliseconds=16, steps=40, contended=60))
    assert milliseconds(state, rows=5) == pytest.approx(16)


def test_a_profile_cell_with_a_quiet_sample_beats_the_stand_in_of_another_pod() -> None:
    """One pod was profiled beside something else."""
    state = profiled(*TWO, step_cell(rows=3, milliseconds=12, steps=1), _stand_in(rows=3, milliseconds=500))
    assert milliseconds(state, rows=3) == 12


def test_a_profile_of_contended_samples_only_is_better_than_none() -> None:
    """The fastest of them stands in until quiet steps are measured."""
    state = profiled(_stand_in(rows=1, milliseconds=13), _stand_in(rows=5, milliseconds=19))
    assert milliseconds(state, rows=5) == 19


def _stand_in(*, rows: int, milliseconds: float) -> StepCell:
    return step_cell(rows=rows, milliseconds=milliseconds, steps=1, contended=10).model_copy(update={"steps": 0})


def test_steps_are_read_in_the_context_lengths_that_the_traffic_has() -> None:
    """Three quarters of the steps are long: the curve leans there."""
    state = profiled(step_cell(context=256, milliseconds=10), step_cell(context=2048, milliseconds=20))
    state = measured(
        state,
        step_cell(context=256, milliseconds=10, steps=100),
        step_cell(context=2048, milliseconds=20, steps=300),
    )
    assert milliseconds(state, rows=1) == 17.5


def test_a_batch_without_figures_lies_between_its_neighbours() -> None:
    """Rows alone say most; the batch adds its attention."""
    state = profiled(step_cell(batch=2, rows=8, milliseconds=10), step_cell(batch=8, rows=8, milliseconds=16))
    assert milliseconds(state, batch=4, rows=8) == 12


def test_drafting_is_priced_apart_from_the_step() -> None:
    """100 steps of 14 ms, of which 400 drafted tokens took 1 ms each: the step without drafting takes 10 ms."""
    head = DrafterDelta(
        name="head",
        type=DrafterType.HEAD,
        revision="1",
        opportunities=100,
        proposed=100,
        drafted_tokens=400,
        draft_seconds=0.4,
    )
    state = measured(profiled(*TWO), step_cell(rows=5, milliseconds=14), drafters=(head,))
    unit = cost.draft_unit_seconds(state, name="head", type=DrafterType.HEAD, one_row_step_seconds=0.01)
    assert (milliseconds(state, rows=5), round(unit * 1e3, 3)) == (10, 1.0)


def test_profiles_of_several_pods_are_averaged() -> None:
    """The fleet has one curve."""
    slow, fast = profile([step_cell(milliseconds=20)]), profile([step_cell(milliseconds=10)])
    assert milliseconds(CostState(profile=cost.profiled([slow, fast])), rows=1) == 15


def test_the_error_of_a_measured_cell_comes_from_its_ticks() -> None:
    """Ticks that agree are precise, ticks that don't are not."""
    steady, shaky = CostState(), CostState()
    for i in range(10):
        steady = measured(steady, step_cell(milliseconds=10))
        shaky = measured(shaky, step_cell(milliseconds=8 if i % 2 else 12))
    assert cost.relative_error(steady.measured[0]) == 0.003
    assert cost.relative_error(shaky.measured[0]) == pytest.approx(0.2 / 10**0.5, rel=0.4)


@given(st.lists(st.floats(0.001, 10), max_size=12))
def test_a_monotone_curve_never_falls_and_keeps_its_mean(seconds: list[float]) -> None:
    """Pool adjacent violators."""
    nodes = [Node(rows=i, seconds=s, error=0.01, weight=1.0) for i, s in enumerate(seconds)]
    means = [node.seconds for node in monotone(nodes)]
    assert means == sorted(means)
    assert sum(means) == pytest.approx(sum(seconds))


def seen(*cells: StepCell) -> tuple[GoodputState, CostState]:
    delta = CounterDelta(cells=cells)
    return goodput.update(GoodputState(), delta), cost.update(CostState(), delta)


def test_speedup_is_measured_goodput_over_measured_baseline() -> None:
    """20 tokens per 100 ms against 10: twice as fast, a little less for the baseline steps themselves."""
    state, costs = seen(
        step_cell(rows=1, steps=10, milliseconds=10), step_cell(rows=5, steps=990, milliseconds=15, tokens=2970)
    )
    assert goodput.speedup(state, costs) == pytest.approx(2980 / (0.1 + 14.85) / 100)


def test_without_a_baseline_there_is_no_speedup() -> None:
    """It is never computed from a model."""
    assert goodput.speedup(*seen(step_cell(rows=5, steps=1000, tokens=3000))) is None


def test_a_baseline_of_another_batch_is_none() -> None:
    """Batch 8 is fast for other reasons."""
    assert goodput.speedup(*seen(step_cell(batch=1, rows=1), step_cell(batch=8, rows=40, tokens=2000))) == 1.0
