"""Buckets of step times and how they are read; the start-up profile that fills them."""

from __future__ import annotations

import pytest

from bowsprit_engine.core.runner import StepBatch
from bowsprit_engine.speculation import costs, profile
from bowsprit_policy.wire import StepCell
from fakes import FakeRunner


@pytest.mark.parametrize(
    ("batch", "rows", "context", "key"),
    [
        (1, 1, 5, (1, 1, 128)),
        (3, 7, 129, (4, 7, 256)),
        (4, 17, 256, (4, 18, 256)),
        (16, 80, 1000.5, (16, 80, 1024)),
        (16, 129, 1025, (16, 144, 2048)),
        (17, 33, 2049, (32, 36, 4096)),
    ],
)
def test_a_step_falls_into_the_bucket_above_it(batch, rows, context, key):
    """Each coordinate is an upper bound."""
    bucket = costs.CellKey.of(batch=batch, rows=rows, context=context)

    assert (bucket.batch, bucket.rows, bucket.context) == key


def cell(batch, rows, context, seconds, steps=10):
    return StepCell(batch=batch, rows=rows, context=context, steps=steps, seconds=seconds * steps, tokens=0)


def test_times_between_cells_are_read_linearly_in_rows_at_the_nearest_context():
    """And beyond what was measured there is no answer."""
    times = costs.StepTimes([cell(2, 2, 256, 1.0), cell(2, 6, 256, 3.0), cell(2, 2, 1024, 5.0)])

    assert times.seconds(batch=2, rows=4, context=200) == 2.0
    assert times.seconds(batch=2, rows=2, context=900) == 5.0
    assert times.slowdown(batch=2, rows=6, context=200) == 3.0
    assert times.seconds(batch=2, rows=20, context=200) is None
    assert times.seconds(batch=8, rows=8, context=200) is None


def test_a_curve_is_the_times_of_its_rows_however_often_and_far_it_was_asked_for():
    """What is kept from one step to the next changes no figure; one row that nobody measured leaves no curve."""
    times = costs.StepTimes([cell(2, 2, 256, 1.0), cell(2, 6, 256, 3.0), cell(2, 10, 1024, 5.0)])

    for rows, most, context in ((4, 1, 200), (2, 4, 200), (3, 0, 300), (9, 1, 900), (2, 4, 256)):
        seconds = tuple(times.seconds(batch=2, rows=rows + n, context=context) for n in range(most + 1))
        assert costs.curve_of(times, 2, rows, most, context) == seconds
    assert costs.curve_of(times, 2, 2, 5, 200) == ()  # a row more than was ever tried isn't free
    assert costs.curve_of(times, 8, 8, 1, 200) == ()


@pytest.mark.parametrize("batch", range(5, 9))
def test_every_batch_of_a_bucket_has_the_curve_of_its_profile(batch):
    """A profile has rows from the largest batch on: without a curve all that is drafted would be verified."""
    times = costs.StepTimes([cell(8, 8, 256, 7.0), cell(8, 16, 256, 10.0)])

    assert costs.curve_of(times, batch, batch, 16 - batch, 256)[0] == 7.0
    drafted_only = costs.StepTimes([cell(8, 16, 256, 10.0), cell(8, 24, 256, 13.0)])
    assert costs.curve_of(drafted_only, batch, batch, 4, 256) == ()  # else rows would look free


def test_measured_cells_with_few_steps_judge_nothing():
    """Fewer than 8 steps are noise."""
    times = costs.measured_times([cell(1, 1, 128, 1.0, steps=7), cell(1, 5, 128, 2.0, steps=8)])

    assert times.seconds(batch=1, rows=1, context=100) is None
    assert times.seconds(batch=1, rows=5, context=100) == 2.0


def measure(runner, **changes):
    arguments = {"model_digest": "d", "max_batch_size": 6, "draft_tokens_max": 4, "kv_blocks": 64, **changes}
    return profile.load_or_measure(runner, **arguments)


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """Steps run, and take a hundredth of a second and all cores whatever the machine is busy with."""

    def timed(runner, step):
        runner.forward(step)
        return 0.01, False

    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(profile, "SECONDS_BOUND", 3600.0)
    monkeypatch.setattr(profile, "_timed", timed)
    return tmp_path


def test_what_a_step_really_takes_is_seconds_of_a_forward_and_whether_they_were_contended(tmp_path, monkeypatch):
    """Not made up: the clock's, whatever the machine is busy with."""
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(profile, "SECONDS_BOUND", 3600.0)
    runner = FakeRunner()
    runner.allocate_kv(64)

    measured = measure(runner, max_batch_size=1)

    assert all(cell.seconds > 0 for cell in measured.cells)
    assert all(max(cell.steps, cell.contended) >= profile.SAMPLES for cell in measured.cells)


def test_the_profile_covers_every_batch_bucket_from_no_draft_to_the_most(cache_dir):
    """Each batch bucket has its baseline and its widest step, in seconds."""
    runner = FakeRunner()
    runner.allocate_kv(64)

    measured = measure(runner)

    keys = {(cell.batch, cell.rows) for cell in measured.cells}
    assert keys >= {(b, b * (1 + k)) for b in (1, 2, 4, 8) for k in (0, 4)}
    assert {round(cell.seconds / cell.steps, 6) for cell in measured.cells} == {0.01}


def test_a_kept_profile_is_read_again_and_another_models_is_not(cache_dir):
    """The key is accelerator, model digest and dtype; a restart costs nothing."""
    runner = FakeRunner()
    runner.allocate_kv(64)
    first = measure(runner)
    num_forwards = runner.num_forwards

    assert measure(runner) == first
    assert runner.num_forwards == num_forwards
    assert measure(runner, model_digest="another").model_digest == "another"
    assert runner.num_forwards > num_forwards


def test_a_profile_is_completed_by_later_starts(cache_dir):
    """Cells that a start had no time for, or that a smaller engine didn't need, are added; the others stay."""
    runner = FakeRunner()
    runner.allocate_kv(64)
    small = measure(runner, max_batch_size=1)

    large = measure(runner, max_batch_size=4)

    assert large.cells[: len(small.cells)] == small.cells
    assert len(large.cells) == 3 * len(small.cells)
    assert measure(runner, max_batch_size=4) == large


@pytest.mark.parametrize(("max_model_len", "context"), [(256, None), (1500, 1024), (8192, 2048)])
def test_a_prompts_chunk_is_timed_at_the_longest_context_that_the_model_has(cache_dir, max_model_len, context):
    """Once, and kept: up to 2,048 tokens, and nothing for a model whose longest is the profile's own."""
    runner = FakeRunner(max_model_len=max_model_len)
    runner.allocate_kv(256)
    shapes: list[StepBatch] = []
    runner.before_forward = shapes.append

    measured = measure(runner, kv_blocks=256)
    longest = max(int(batch.positions[-1]) + 1 for batch in shapes)
    shapes.clear()

    assert [(cell.rows, cell.context) for cell in measured.long_context] == ([] if context is None else [(64, context)])
    assert longest == (context or 256)
    assert (measure(runner, kv_blocks=256), shapes) == (measured, [])


def test_a_torn_profile_is_measured_again(cache_dir):
    """What can't be read is no error for the engine."""
    runner = FakeRunner()
    runner.allocate_kv(64)
    measure(runner)
    (path,) = (cache_dir / "profile").iterdir()
    path.write_text('{"accelerator": "fa')

    assert measure(runner).cells != ()


def test_the_profile_stays_within_its_bound_of_time(cache_dir, monkeypatch):
    """A slow accelerator gets the most important cells: K=0 of the small batches first."""
    monkeypatch.setattr(profile, "SECONDS_BOUND", 0.0)
    runner = FakeRunner()
    runner.allocate_kv(64)
    shapes: list[StepBatch] = []
    runner.before_forward = shapes.append

    measured = measure(runner)

    assert (shapes, measured.cells) == ([], ())
    assert not (cache_dir / "profile").exists()


def test_contended_samples_stand_in_only_until_a_quiet_one_is_had(cache_dir, monkeypatch):
    """When the process had less than 90 % of its cores, the fastest sample is kept, marked, and measured anew."""
    runner = FakeRunner()
    runner.allocate_kv(64)
    monkeypatch.setattr(profile, "_timed", lambda *_: (0.01, True))
    contended = measure(runner)
    monkeypatch.setattr(profile, "_timed", lambda *_: (0.008, False))
    quiet = measure(runner)

    assert {(cell.steps, cell.seconds) for cell in contended.cells} == {(0, 0.01)}
    assert {(cell.steps, round(cell.seconds / 5, 6)) for cell in quiet.cells} == {(5, 0.008)}
