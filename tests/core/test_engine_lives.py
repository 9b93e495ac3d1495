"""The engine's promises to its callers: limits, ends, cancellation, faults, draining, idleness."""

from __future__ import annotations

import logging
import math
import threading
import time

import pytest

from bowsprit_engine.core.engine import Engine, EngineSettings
from bowsprit_engine.core.request import FinishReason, SpeculationParams
from bowsprit_engine.errors import CallerError, StalePolicyError, WorldError
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_policy.wire import DrafterLoad, DrafterState, DrafterType, PolicyTable, TableRow
from fakes import FAKE_EOS, FAKE_VOCAB, FakeDrafter, FakeRunner, adversary

PROMPT = [5, 6, 7, 8]
LEAVING = {"leaver": [5, 6, 7, 8], "neighbour": [9, 9]}


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], {}, "the prompt is empty, the least is 1 token"),
        ([1] * 256, {"max_tokens": 1}, "256 prompt tokens and max_tokens 1 make 257, the model's limit is 256"),
        ([1] * 200, {"max_tokens": 57}, "200 prompt tokens and max_tokens 57 make 257, the model's limit is 256"),
        ([1], {"max_tokens": 0}, "max_tokens is 0, the least is 1"),
        ([1, FAKE_VOCAB], {}, "token 61 is not within 0 and 60"),
        ([1], {"logit_bias": {99: 1.0}}, "token 99 is not within 0 and 60"),
        ([1], {"stop_token_ids": frozenset({99}), "min_tokens": 1}, "token 99 is not within 0 and 60"),
    ],
)
def test_what_can_never_be_served_is_refused_with_value_and_limit(serve, prompt, sampling, message):
    """The caller's fault is told at once, in numbers."""
    served = serve()

    with pytest.raises(CallerError) as refusal:
        served.submit("r", prompt, **sampling)

    assert message == str(refusal.value)


def test_an_unknown_drafter_is_refused_by_name(serve):
    """The request may only name a drafter that the engine has."""
    served = serve(drafters=[NGramDrafter(name="ngram")])

    with pytest.raises(CallerError, match=r"no drafter 'head', there are \['ngram'\]"):
        served.submit("r", PROMPT, speculation=SpeculationParams(drafter="head"))


def test_a_request_fills_the_model_to_its_last_position(serve):
    """Prompt and answer may take exactly max_model_len tokens."""
    served = serve(drafters=[adversary()], speculation_mode=6)

    answer = served.submit("r", [1] * 100, max_tokens=156).wait()

    assert (len(answer.token_ids), answer.finish_reason) == (156, FinishReason.LENGTH)


def test_a_stop_token_ends_the_answer_and_is_its_last_token(serve):
    """Tokens after a stop token are never emitted, even if they were drafted and matched."""
    served = serve(speculation_mode="off")
    plain = served.submit("plain", PROMPT, max_tokens=30).wait().token_ids
    stop = plain[10]
    served = serve(
        drafters=[FakeDrafter(name="right", draft=lambda c: plain[len(c.token_ids) - 4 :])], speculation_mode=6
    )

    answer = served.submit("r", PROMPT, max_tokens=30, stop_token_ids=frozenset({stop})).wait()

    assert (plain[: plain.index(stop) + 1], FinishReason.STOP) == (answer.token_ids, answer.finish_reason)


def test_eos_ends_unless_ignored_or_too_early(serve):
    """A model that always wants to stop is held by min_tokens, and by ignore_eos altogether."""
    served = serve(runner=FakeRunner(eos_bias=50.0), drafters=[adversary()], speculation_mode=3)

    at_once = served.submit("a", PROMPT, max_tokens=9).wait()
    held = served.submit("b", PROMPT, max_tokens=9, min_tokens=5).wait()
    ignored = served.submit("c", PROMPT, max_tokens=9, ignore_eos=True).wait()

    assert at_once.token_ids == [FAKE_EOS]
    assert (len(held.token_ids), held.token_ids[-1], FAKE_EOS in held.token_ids[:-1]) == (6, FAKE_EOS, False)
    assert (ignored.token_ids, ignored.finish_reason) == ([FAKE_EOS] * 9, FinishReason.LENGTH)


def test_cancelling_returns_the_blocks_and_tells_the_client(serve):
    """A cancelled request ends as `abort`, whether it ran or waited."""
    served = serve(max_batch_size=1)
    is_running = threading.Event()
    running = served.submit("running", PROMPT, max_tokens=250, on_output=lambda _: is_running.set())
    waiting = served.submit("waiting", PROMPT, max_tokens=250)
    assert is_running.wait(10)

    served.engine.cancel("waiting")
    served.engine.cancel("running")
    served.engine.cancel("never heard of")

    assert (running.wait().finish_reason, waiting.wait().finish_reason) == (FinishReason.ABORT, FinishReason.ABORT)
    assert served.engine.stats().kv_cache_usage == 0.0


def test_a_client_that_leaves_between_draft_and_verification_gets_that_step_and_no_more(serve):
    """Its blocks come back, its drafter forgets it, and its neighbour's tokens are those that it has alone."""
    text = {name: serve().submit(name, prompt, max_tokens=40).wait().token_ids for name, prompt in LEAVING.items()}
    asked = []

    def draft(context):
        asked.append(context.request_id)
        if asked.count("leaver") == 3 and context.request_id == "leaver":
            served.engine.cancel("leaver")
        name = context.request_id
        return text[name][len(context.token_ids) - len(LEAVING[name]) :]

    drafter = FakeDrafter(name="right", draft=draft)
    served = serve(drafters=[drafter], speculation_mode=2)
    leaver, neighbour = (served.submit(name, prompt, max_tokens=40) for name, prompt in LEAVING.items())

    assert (leaver.wait().finish_reason, leaver.token_ids) == (FinishReason.ABORT, text["leaver"][: 1 + 3 * 3])
    assert neighbour.wait().token_ids == text["neighbour"]
    assert (asked.count("leaver"), sorted(drafter.forgotten)) == (3, ["leaver", "neighbour"])
    assert served.engine.stats().kv_cache_usage == 0.0
    assert served.finished[0].accepted_counts == (2, 2, 2)


def test_logits_that_are_not_finite_end_one_request_only(serve):
    """Its neighbour goes on; the client hears why; a counter tells."""
    served = serve(speculation_mode="off")
    plain = served.submit("plain", PROMPT, max_tokens=20).wait().token_ids
    other = served.submit("other", [9, 9], max_tokens=20).wait().token_ids
    runner = FakeRunner()
    runner.poisoned = {tuple(PROMPT + plain[:7])}
    served = serve(runner=runner, drafters=[NGramDrafter(name="ngram")], speculation_mode=4)

    poisoned = served.submit("poisoned", PROMPT, max_tokens=20)
    neighbour = served.submit("neighbour", [9, 9], max_tokens=20)

    assert (plain[:7], FinishReason.ERROR) == (poisoned.wait().token_ids, poisoned.finish_reason)
    assert poisoned.last.error == "the model's logits are not finite"
    assert other == neighbour.wait().token_ids
    counts = served.engine.snapshot()
    assert (counts.errors, counts.corrupted_requests, served.engine.stats().corrupted_requests) == (1, 1, 1)


def test_a_step_that_raises_ends_its_requests_and_the_engine_goes_on(serve, caplog):
    """Nobody hangs, the log says so, and the next request is served."""
    runner = FakeRunner()
    served = serve(runner=runner)
    fault = OSError("the device is gone")

    def fail_once(_):
        runner.before_forward = lambda _: None
        raise fault

    runner.before_forward = fail_once
    with caplog.at_level(logging.ERROR):
        failed = served.submit("failed", PROMPT, max_tokens=5).wait()
    served_next = served.submit("next", PROMPT, max_tokens=5).wait()

    assert (
        failed.finish_reason,
        failed.last.error,
    ) == (FinishReason.ERROR, "the step failed: OSError: the device is gone")
    assert (len(served_next.token_ids), served_next.finish_reason) == (5, FinishReason.LENGTH)
    assert "a step failed" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_every_step_fails_ends_and_answers_everybody(serve):
    """A device that is gone stays gone: the pod must end and be replaced, not answer errors for ever."""
    runner = FakeRunner()
    served = serve(runner=runner)

    def fail(_):
        raise OSError("the device is gone")

    runner.before_forward = fail
    reasons = [served.submit(f"{i}", PROMPT, max_tokens=5).wait().finish_reason for i in range(16)]
    served.engine.stop()

    assert reasons == [FinishReason.ERROR] * 16
    assert not served.engine.is_ready
    with pytest.raises(WorldError, match="takes no more requests"):
        served.submit("late", PROMPT, max_tokens=5)


def test_a_drafter_that_raises_is_broken_and_serving_goes_on(serve):
    """Its request is answered plainly; stats say what it raised."""

    def draft(_):
        raise ZeroDivisionError("no such luck")

    served = serve(drafters=[FakeDrafter(name="bad", draft=draft)], speculation_mode=4)

    answer = served.submit("r", PROMPT, max_tokens=8).wait()

    (stats,) = served.engine.drafters()
    assert (
        len(answer.token_ids),
        stats.state,
        stats.reason,
    ) == (8, DrafterState.BROKEN, "ZeroDivisionError: no such luck")


def test_drafted_tokens_outside_the_vocabulary_never_reach_the_model(serve):
    """A drafter that proposes them is Broken."""
    served = serve(drafters=[FakeDrafter(name="bad", draft=lambda _: [FAKE_VOCAB])], speculation_mode=4)

    answer = served.submit("r", PROMPT, max_tokens=8).wait()

    assert (answer.finish_reason, served.engine.drafters()[0].state) == (FinishReason.LENGTH, DrafterState.BROKEN)


@pytest.mark.parametrize("speculation_mode", ["auto", 4])
@pytest.mark.parametrize(
    "draft",
    [
        Draft(token_ids=(1, 2), confidences=("sure", "less so")),
        Draft(token_ids=(1, 2), confidences=(None, None)),
        Draft(token_ids=(1, 2), confidences=[0.9, 0.9]),
        Draft(token_ids=[1, 2]),
    ],
)
def test_a_draft_of_other_types_than_a_drafts_costs_no_request(serve, speculation_mode, draft):
    """Its drafter is Broken, and what it said is shown."""
    plain = serve().submit("r", PROMPT, max_tokens=20).wait().token_ids
    strange = FakeDrafter(name="strange", draft=lambda _: (), type=DrafterType.NGRAM)
    strange.propose = lambda contexts: [draft] * len(contexts)
    served = serve(drafters=[strange], speculation_mode=speculation_mode)

    answer = served.submit("r", PROMPT, max_tokens=20).wait()

    (stats,) = served.engine.drafters()
    assert (answer.token_ids, answer.finish_reason) == (plain, FinishReason.LENGTH)
    assert (stats.state, stats.proposed, stats.drafted_tokens) == (DrafterState.BROKEN, 0, 0)
    assert f"1 that aren't tuples of tokens and numbers: [{draft!r}" in stats.reason


def test_a_confidence_that_is_not_a_number_costs_its_draft(serve):
    """NaN, as of a state that isn't finite, says nothing: the draft is verified, and counts, as any other."""
    plain = serve().submit("r", PROMPT, max_tokens=20).wait().token_ids
    unsure = FakeDrafter(name="unsure", draft=lambda _: ())
    unsure.propose = lambda contexts: [Draft(token_ids=(FAKE_EOS,), confidences=(math.nan,))] * len(contexts)
    served = serve(drafters=[unsure], speculation_mode=4)

    answer = served.submit("r", PROMPT, max_tokens=20).wait()

    (stats,) = served.engine.drafters()
    assert (answer.token_ids, stats.state) == (plain, DrafterState.ACTIVE)
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.reached, stats.matched) == (18, 0, (18,), ())


def test_a_client_that_raises_loses_its_request_only(serve):
    """The engine ends it and serves the others."""
    served = serve()

    def fail(_):
        raise ConnectionError("gone")

    served.submit("gone", PROMPT, max_tokens=50, on_output=fail)
    answer = served.submit("other", PROMPT, max_tokens=5).wait()

    assert len(answer.token_ids) == 5
    assert served.engine.snapshot().finished == {"abort": 1, "length": 1}


def test_a_second_request_of_the_same_id_ends_in_an_error(serve):
    """Two streams under one id could not be told apart."""
    served = serve()
    is_running = threading.Event()
    first = served.submit("same", PROMPT, max_tokens=200, on_output=lambda _: is_running.set())
    assert is_running.wait(10)

    second = served.submit("same", PROMPT, max_tokens=5).wait()

    assert (second.finish_reason, second.last.error) == (FinishReason.ERROR, "request id 'same' is in use")
    assert first.wait().finish_reason == FinishReason.LENGTH


class UnbegunGrammar:
    """One that can't be begun, as when the library runs out of memory."""

    def begin(self):
        raise MemoryError("no room for a parser")


def test_a_request_that_cannot_begin_fails_alone(serve, caplog):
    """Its client is told why; neighbours go on, and so does the engine."""
    served = serve()
    neighbour = served.submit("neighbour", PROMPT, max_tokens=20)
    with caplog.at_level(logging.ERROR):
        failed = served.submit("failed", PROMPT, grammar=UnbegunGrammar()).wait()
    assert (failed.finish_reason, failed.last.error) == (
        FinishReason.ERROR,
        "the request can't begin: MemoryError: no room for a parser",
    )
    assert "request failed can't begin" in caplog.text
    assert neighbour.wait().finish_reason is FinishReason.LENGTH
    assert served.submit("after", PROMPT, max_tokens=3).wait().finish_reason is FinishReason.LENGTH
    assert (served.engine.snapshot().errors, served.engine.snapshot().corrupted_requests) == (1, 0)


def test_draining_lets_requests_end_and_takes_no_more(serve):
    """Stop with a drain time: what runs is finished, what comes is refused."""
    served = serve()
    is_running = threading.Event()
    answer = served.submit("r", PROMPT, max_tokens=120, on_output=lambda _: is_running.set())
    assert is_running.wait(10)

    served.engine.stop(drain_seconds=30)

    assert (answer.wait().finish_reason, len(answer.token_ids)) == (FinishReason.LENGTH, 120)
    assert not served.engine.is_ready
    with pytest.raises(WorldError, match="draining"):
        served.submit("late", PROMPT)


def test_an_engine_is_ready_once_its_steps_are_timed_and_not_before(tmp_path, monkeypatch):
    """While the profile runs it is not; so nobody's first request pays for the warm-up."""
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))
    runner = FakeRunner()
    is_timing, may_go_on = threading.Event(), threading.Event()

    def hold(_):
        is_timing.set()
        may_go_on.wait(30)

    runner.before_forward = hold
    settings = EngineSettings(
        model_name="fake", model_digest="d", max_batch_size=1, max_model_len=64, kv_blocks=8, draft_tokens_max=1
    )
    engine = Engine(runner=runner, settings=settings, drafters=())
    engine.start()
    assert is_timing.wait(30)

    before, num_cells = engine.is_ready, len(engine.profile().cells)
    may_go_on.set()
    became = engine.wait_ready(30)
    engine.stop()

    assert (before, num_cells, became, len(engine.profile().cells) > 0) == (False, 0, True, True)


def test_stopping_at_once_aborts_what_is_left(serve):
    """Without drain time clients hear `abort`; nobody waits for ever."""
    served = serve(max_batch_size=1)
    is_running = threading.Event()
    answers = [served.submit(f"r{i}", PROMPT, max_tokens=250, on_output=lambda _: is_running.set()) for i in range(3)]
    assert is_running.wait(10)

    served.engine.stop()

    assert answers[2].wait().finish_reason == FinishReason.ABORT
    assert served.engine.stats().kv_cache_usage == 0.0


def test_an_idle_engine_uses_no_processor(serve):
    """Its thread sleeps on a condition while another engine works."""
    served = serve()
    served.submit("r", PROMPT, max_tokens=3).wait()
    (thread,) = (t for t in threading.enumerate() if t.name == "bowsprit-engine")
    clock = time.pthread_getcpuclockid(thread.ident)

    before = time.clock_gettime(clock)
    serve().submit("elsewhere", PROMPT, max_tokens=250).wait()

    assert time.clock_gettime(clock) - before < 0.01


def test_a_long_prompt_never_stalls_a_stream(serve):
    """While 200 tokens of prompt are computed, the running stream gets a token in every step."""
    runner = FakeRunner()
    served = serve(runner=runner, prefill_chunk=16)
    rows = []
    runner.before_forward = lambda batch: rows.append(batch.token_ids.numel())
    long = []

    def beside(_):
        if not long:
            long.append(served.submit("long", [1] * 200, max_tokens=1))

    stream = served.submit("stream", PROMPT, max_tokens=200, on_output=beside)

    assert len(stream.wait().token_ids) == 200
    long[0].wait()
    assert max(rows) == 1 + 16


def test_logprobs_are_the_targets_own(serve):
    """Every emitted token has its log-probability, the same with and without speculation, most likely ones sorted."""
    plain = serve(speculation_mode="off").submit("r", PROMPT, max_tokens=20, num_logprobs=2).wait()
    served = serve(drafters=[NGramDrafter(name="ngram")], speculation_mode=4)

    answer = served.submit("r", PROMPT, max_tokens=20, num_logprobs=2).wait()

    def flat(a):
        return [entry for output in a.outputs for entry in output.logprobs]

    assert flat(plain) == flat(answer)
    assert answer.token_ids == [entry.token_id for entry in flat(answer)]
    assert [entry for entry in flat(answer) if entry.top[0] != (entry.token_id, entry.logprob)] == []


def test_a_request_may_narrow_speculation(serve):
    """Off, fewer tokens, or one drafter by name: within what the engine allows."""
    served = serve(drafters=[adversary("a"), adversary("b")], speculation_mode=4)

    off = served.submit("off", PROMPT, max_tokens=30, speculation=SpeculationParams(enabled=False)).wait()
    few = served.submit("few", PROMPT, max_tokens=30, speculation=SpeculationParams(max_draft_tokens=1)).wait()
    named = served.submit("named", PROMPT, max_tokens=30, speculation=SpeculationParams(drafter="b")).wait()

    assert off.last.metrics.num_draft_tokens == 0
    assert few.last.metrics.num_spec_steps == few.last.metrics.num_draft_tokens
    assert {"b", ""} >= set(served.finished[-1].drafter_names)
    assert named.last.metrics.num_draft_tokens > named.last.metrics.num_spec_steps


def test_an_older_table_is_refused_and_the_same_one_is_fine(serve):
    """The revision only moves forward."""
    served = serve(drafters=[NGramDrafter(name="ngram")])
    table = PolicyTable(revision=5, table=(TableRow(),))

    assert served.engine.set_policy(table).revision == 5
    assert served.engine.set_policy(table).revision == 5
    with pytest.raises(StalePolicyError) as refusal:
        served.engine.set_policy(PolicyTable(revision=4, table=(TableRow(),)))

    assert (refusal.value.stored, refusal.value.offered) == (5, 4)
    assert served.engine.stats().policy_revision == 5


@pytest.mark.parametrize("revision", [10**40, 2**53])
def test_a_revision_beyond_the_limit_is_refused_and_newer_tables_are_taken_on(serve, revision):
    """It would stay the newest for ever."""
    served = serve(drafters=[NGramDrafter(name="ngram")])
    served.engine.set_policy(PolicyTable(revision=5, table=(TableRow(),)))

    with pytest.raises(CallerError) as refusal:
        served.engine.set_policy(PolicyTable(revision=revision, table=(TableRow(),)))

    assert (str(refusal.value), refusal.value.param) == (
        f"policy revision {revision}, the limit is {2**53 - 1}",
        "revision",
    )
    assert served.engine.set_policy(PolicyTable(revision=6, table=(TableRow(),))).revision == 6


def test_an_ngram_drafter_has_no_revisions_to_load(serve):
    """Loading names what is wrong: the drafter's name, or its type."""
    served = serve(drafters=[NGramDrafter(name="ngram")])

    with pytest.raises(CallerError, match="no drafter 'head'"):
        served.engine.load_drafter("head", DrafterLoad(revision="1", uri="file:///nowhere"))
    with pytest.raises(CallerError, match="drafter 'ngram' of type NGram has no revisions"):
        served.engine.load_drafter("ngram", DrafterLoad(revision="1", uri="file:///nowhere"))


def test_a_cache_too_small_for_one_sequence_is_refused(serve):
    """Else that sequence would be preempted for ever. Both flags that mend it are named."""
    with pytest.raises(CallerError, match=r"15 blocks holds 240 tokens, .* max_model_len 256: .*kv-cache-memory .*len"):
        serve(kv_blocks=15)
