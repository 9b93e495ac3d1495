"""Step times beside the time of reading the weights."""

from __future__ import annotations

import pytest

from bench import companions
from bench.step_times import Case, StepTimes, as_json, measure, table_of
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from tiny_models import tiny_config

ONE, NINE, SEVENTEEN = (Case(batch=1, rows=rows) for rows in (1, 9, 17))


def step_times(**changes):
    """3 rounds in which one row takes 10, nine 12 and seventeen 18 milliseconds, and reading 8."""
    values = {
        "accelerator": "A CPU",
        "context": 256,
        "num_threads": 2,
        "is_processor_time": False,
        "weight_bytes": 1_000_000,
        "kv_bytes_per_token": 0,
        "read_seconds": [0.008] * 3,
        "step_seconds": {ONE: [0.010] * 3, NINE: [0.012] * 3, SEVENTEEN: [0.018] * 3},
        "contended_share": 0.0,
    }
    return StepTimes(**values | changes)


def test_the_roofline_is_the_bytes_at_the_bandwidth_of_reading_the_weights():
    """Keys and values of every sequence count as the weights do."""
    without_keys, with_keys = step_times(), step_times(kv_bytes_per_token=1000)

    assert without_keys.roofline_fraction(ONE).value == pytest.approx(0.8)
    assert with_keys.roofline_fraction(ONE).value == pytest.approx(0.8 * (1 + 0.257))


def test_the_figures_are_those_that_the_bench_judges():
    """A figure of another name would read as not measured."""
    figures = step_times().figures()

    assert {bound.key for bound in companions.BOUNDS["step_times"]} == set(figures)
    assert figures["t9_over_t1"].value == pytest.approx(1.2)
    assert figures["t17_over_t1"].value == pytest.approx(1.8)
    assert figures["roofline_fraction_n9"].value == pytest.approx(8 / 12)


def test_a_measurement_runs_every_case_in_every_round(tmp_path):
    """On a small model; the table and the file hold what was measured."""
    runner = NativeRunner(RandomCheckpoint(tmp_path, tiny_config(vocab_size=304)), num_threads=2)

    times = measure(runner, num_rounds=3, context=20, rows=(1, 9, 17), batches=(2,))

    assert list(times.step_seconds) == [ONE, NINE, SEVENTEEN, Case(batch=2, rows=1)]
    assert {3} == {len(seconds) for seconds in (times.read_seconds, *times.step_seconds.values())}
    assert all(second > 0 for seconds in times.step_seconds.values() for second in seconds)
    assert times.weight_bytes == 2 * sum(weight.rows * weight.columns for weight in runner.weights_read_each_step())
    assert table_of(times).row_count == 4
    assert set(as_json(times)["figures"]) == set(times.figures())
