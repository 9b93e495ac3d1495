"""What a long prompt may do to running streams, counted in steps and in what steps cost; who is refused at the door."""

from __future__ import annotations

import threading

import pytest

from bowsprit_engine.core.prefill_chunk import chunk_limits
from bowsprit_engine.core.request import FinishReason
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.speculation import profile as profiling
from builders import profile, step_cell
from core.stepping import Stepping
from fakes import FakeRunner

# a step of this engine's CPU path, milliseconds by rows: bound by memory to 4 rows, by arithmetic beyond
STEEP = {1: 9.4, 2: 10.4, 4: 13.5, 8: 20.9, 16: 36.0, 36: 74.0, 72: 141.0}
FLAT = {1: 10.0, 8: 10.2, 32: 11.0, 72: 12.5}


def cells_of(curve):
    return [step_cell(batch=1, rows=rows, milliseconds=milliseconds) for rows, milliseconds in curve.items()]


def limits_of(curve, delay_steps=2.0, long_context=()):
    known = profile(cells_of(curve), long_context=long_context)
    return chunk_limits(known, prefill_chunk=256, delay_steps=delay_steps)


def beside(limits, context=0):
    return [limits.tokens(num_decodes=num_decodes, context=context) for num_decodes in range(1, 9)]


def test_a_chunk_is_as_long_as_the_delay_allows():
    """By the profile: a few tokens where rows cost arithmetic, hundreds where they are nearly free."""
    assert beside(limits_of(STEEP)) == [10, 11, 12, 14, 16, 18, 19, 21]
    assert beside(limits_of(FLAT)) == [256] * 8
    assert beside(limits_of(STEEP, delay_steps=0.0)) == [1] * 8


def test_a_chunk_is_shorter_the_more_of_its_prompt_its_rows_must_look_at():
    """32 rows took 11 ms more at 2,048 tokens than at the 256 of the profile: each row pays, for each token of them."""
    long = step_cell(batch=1, rows=32, milliseconds=22.0).model_copy(update={"context": 2048})
    limits = limits_of(FLAT, long_context=[long])
    by_context = {context: limits.tokens(num_decodes=1, context=context) for context in (0, 256, 1152, 2048, 100_000)}
    assert by_context == {0: 256, 256: 256, 1152: 92, 2048: 51, 100_000: 1}


def test_a_long_context_that_costs_nothing_more_changes_nothing():
    """Noise may measure it as the faster one."""
    faster = step_cell(batch=1, rows=32, milliseconds=8.0).model_copy(update={"context": 2048})
    assert beside(limits_of(FLAT, long_context=[faster]), context=2000) == [256] * 8


def test_contended_cells_stand_with_their_fastest_sample_and_a_curve_never_falls():
    """What a busy machine measured is bounded by what it measured elsewhere."""
    cells = [
        step_cell(rows=1, milliseconds=10.0),
        step_cell(rows=5, milliseconds=30.0),
        step_cell(rows=9, milliseconds=20.0),
        step_cell(rows=17, steps=0, contended=3).model_copy(update={"seconds": 0.09}),
    ]
    limits = chunk_limits(profile(cells), prefill_chunk=64, delay_steps=2.1)
    assert limits.tokens(num_decodes=1, context=0) == 8


def test_without_a_profile_or_streams_there_is_no_limit():
    """One cell has no slope; and who has the engine alone gets whole chunks."""
    assert limits_of({1: 9.0}) is None
    assert limits_of(STEEP).tokens(num_decodes=0, context=0) == 256


def note_chunks(limits, added_steps, *, times=40):
    """Decode steps of 9.4 ms, then steps with the chunk that is allowed, longer by `added_steps(tokens)` of those."""
    for _ in range(50):
        limits.note_step(num_decodes=1, num_tokens=0, context=0, seconds=9.4e-3)
    for index in range(times):
        tokens = limits.tokens(num_decodes=1, context=0)
        limits.note_step(num_decodes=1, num_tokens=tokens, context=0, seconds=9.4e-3 * (1 + added_steps(tokens, index)))


@pytest.mark.parametrize(("curve", "per_token"), [(STEEP, 0.5), (STEEP, 0.1), (FLAT, 0.02), (FLAT, 0.1)])
def test_a_chunk_is_corrected_by_what_steps_with_prompt_tokens_take(curve, per_token):
    """Whatever the profile said: a token adds half a step, or a fiftieth of one, and two steps are the bound."""
    limits = limits_of(curve)
    note_chunks(limits, lambda tokens, _: per_token * tokens, times=100)
    added = per_token * limits.tokens(num_decodes=1, context=0)
    assert 1.0 <= added <= 2.0


def test_steps_that_vary_leave_room_for_the_slow_ones():
    """Every other step is twice as slow as its neighbour: slow ones are within the bound too."""
    limits = limits_of(STEEP)
    note_chunks(limits, lambda tokens, index: tokens * (0.1 if index % 2 else 0.2), times=100)
    assert 0.2 * limits.tokens(num_decodes=1, context=0) <= 2.0


def test_a_step_of_streams_alone_is_the_measure_of_the_delay():
    """Measured at half of the profile's, it halves what prompts may add; other numbers of streams have their own."""
    limits = limits_of(STEEP)
    for _ in range(50):
        limits.note_step(num_decodes=1, num_tokens=0, context=0, seconds=4.7e-3)
    assert beside(limits) == [5, *beside(limits_of(STEEP))[1:]]


class Priced:
    """Limits that are told what a step costs by the steep curve, whatever the fake runner takes."""

    def __init__(self, limits):
        self._limits = limits
        self.tokens = limits.tokens

    def note_step(self, *, num_decodes, num_tokens, context, seconds):
        del seconds
        self._limits.note_step(
            num_decodes=num_decodes,
            num_tokens=num_tokens,
            context=context,
            seconds=steep_milliseconds(num_decodes + num_tokens) / 1e3,
        )


def test_a_step_that_something_else_held_up_moves_the_bound_by_little():
    """Half a second in the first step of a stream, and two in one with a chunk: neither lasts."""
    limits = limits_of(STEEP)
    limits.note_step(num_decodes=1, num_tokens=0, context=0, seconds=0.5)
    after_decode = limits.tokens(num_decodes=1, context=0)
    note_chunks(limits, lambda tokens, index: 200.0 if index == 20 else 0.2 * tokens, times=21)
    after_chunk = limits.tokens(num_decodes=1, context=0)
    note_chunks(limits, lambda tokens, _: 0.2 * tokens, times=20)
    assert 10 <= after_decode <= 12
    assert 2 <= after_chunk < limits.tokens(num_decodes=1, context=0) <= 10


@pytest.mark.parametrize(("delay_steps", "is_within"), [(2.0, True), (None, False)])
def test_a_prompt_of_2000_tokens_delays_running_streams_by_two_steps_at_the_99th_percentile(delay_steps, is_within):
    """Every stream gets a token in every step; what a step costs beside the prompt is counted by the profile's curve.

    Without the limit whole chunks of 256 tokens delay them by dozens of steps: the same count says so.
    """
    stepping = Stepping(num_blocks=300, prefill_chunk=256, max_model_len=2100)
    if delay_steps is not None:
        stepping.scheduler.limit_chunks(Priced(limits_of(STEEP, delay_steps)))
    rows = []
    stepping.runner.before_forward = lambda batch: rows.append(batch.token_ids.numel())
    streams = [f"stream {index}" for index in range(3)]
    for index, stream in enumerate(streams):
        stepping.submit(stream, [index + 1] * 3, max_tokens=400)
    stepping.stepper.step()
    rows.clear()
    stepping.submit("long", [index % 59 for index in range(2000)], max_tokens=1)
    told = []
    while not stepping.outputs["long"]:
        before = [len(stepping.outputs[stream]) for stream in streams]
        stepping.stepper.step()
        told += [len(stepping.outputs[stream]) - count for stream, count in zip(streams, before, strict=True)]

    delays = sorted(steep_milliseconds(count) / steep_milliseconds(3) - 1.0 for count in rows for _ in streams)
    assert set(told) == {1}
    assert sum(rows) - 3 * len(rows) == 2000
    assert (delays[int(0.99 * len(delays))] <= 2.0) is is_within


class Listening:
    """Limits of four tokens that write down what they are told."""

    def __init__(self):
        self.told = []

    def tokens(self, *, num_decodes, context):
        return 4

    def note_step(self, *, num_decodes, num_tokens, context, seconds):
        self.told.append((num_decodes, num_tokens, context))


@pytest.mark.parametrize(
    ("cpu_seconds", "expected"), [(1e9, [(1, 4, 0), (1, 4, 4), (1, 2, 8), *[(1, 0, 0)] * 4]), (0.0, [])]
)
def test_limits_are_told_of_every_step_with_a_stream_that_had_its_cores(cpu_seconds, expected):
    """And of none that other work held up: a stream of eight tokens, a prompt of ten beside it."""
    stepping, limits = Stepping(), Listening()
    stepping.scheduler.limit_chunks(limits)
    stepping.runner.last_step_cpu_seconds = cpu_seconds
    stepping.submit("stream", [1, 2, 3], max_tokens=8, ignore_eos=True)
    stepping.stepper.step()
    stepping.submit("long", range(10), max_tokens=1)
    stepping.run()
    assert limits.told == expected


@pytest.mark.parametrize(("delay_steps", "is_limited"), [(1.5, True), (None, False)])
def test_an_engine_limits_chunks_by_its_own_profile(serve, monkeypatch, delay_steps, is_limited):
    """In it two rows take twice a row's time: beside a stream three tokens at most, whatever steps take here."""
    cells = cells_of({1: 1e6, 2: 2e6})
    monkeypatch.setattr(profiling, "load_or_measure", lambda *_, **__: profile(cells))
    runner, rows, prompts = FakeRunner(), [], []
    served = serve(runner=runner, prefill_chunk=64, prefill_delay_steps=delay_steps)
    runner.before_forward = lambda batch: rows.append(batch.token_ids.numel())

    def bring_a_prompt(_):
        if not prompts:
            prompts.append(served.submit("long", [2] * 40, max_tokens=1))

    served.submit("stream", [1], max_tokens=60, ignore_eos=True, on_output=bring_a_prompt).wait()
    prompts[0].wait()
    assert (max(rows) <= 1 + 3) is is_limited


def steep_milliseconds(rows):
    """Milliseconds by the steep curve, read as linearly as the engine reads it."""
    known = sorted(STEEP)
    high = next((count for count in known if count >= rows), None)
    if high is None:
        return STEEP[72] + (rows - 72) * (STEEP[72] - STEEP[1]) / 71
    low = max((count for count in known if count < rows), default=high)
    share = 0.0 if low == high else (rows - low) / (high - low)
    return STEEP[low] * (1 - share) + STEEP[high] * share


def test_requests_are_served_in_the_order_in_which_they_came(serve):
    """One at a time: each ends before the next one begins."""
    served = serve(max_batch_size=1)
    ended = []
    answers = [
        served.submit(
            f"r{index}",
            [5, 6, 7],
            max_tokens=1 + index % 3,
            on_output=lambda output: ended.append(output.request_id) if output.finish_reason else None,
        )
        for index in range(6)
    ]
    for answer in answers:
        answer.wait()

    assert ended == [f"r{index}" for index in range(6)]


def test_one_more_than_the_queue_holds_is_refused_and_its_place_is_free_again_when_one_ends(serve):
    """With the number and the limit; a request that was taken is never dropped for it."""
    runner = FakeRunner()
    served = serve(runner=runner, max_batch_size=1, max_waiting=2)
    is_stepping, may_step = threading.Event(), threading.Event()

    def hold(_):
        is_stepping.set()
        may_step.wait(30)

    runner.before_forward = hold
    taken = [served.submit("r0", [1], max_tokens=2)]
    assert is_stepping.wait(30)
    taken += [served.submit(f"r{index}", [1], max_tokens=2) for index in (1, 2)]

    with pytest.raises(WorldError, match="3 requests run or wait, the limit is 3") as refusal:
        served.submit("one more", [1], max_tokens=2)
    may_step.set()
    ends = [answer.wait().finish_reason for answer in taken]
    later = served.submit("later", [1], max_tokens=2).wait()

    assert (refusal.value.reason, ends) == ("Overloaded", [FinishReason.LENGTH] * 3)
    assert later.finish_reason == FinishReason.LENGTH


def test_a_negative_queue_is_refused(serve):
    """The least is none."""
    with pytest.raises(CallerError, match="max_waiting is -1, the least is 0"):
        serve(max_waiting=-1)
