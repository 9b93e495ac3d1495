"""Two engines asked the same, one with drafts: what is told of their steps and answers."""

from __future__ import annotations

import pytest

from bench.drafter_streams import Question
from bench.live_streams import Answering, Asked, Figures, in_turn, table_of_caps
from bench.step_clock import Step, StepClock, pace
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.model_settings import DrafterChoice
from fakes import FakeRunner, oracle


def a_step(batch, tokens, seconds, drafting_seconds=0.0, is_contended=False):
    return Step(
        batch=batch,
        tokens=tokens,
        seconds=seconds,
        cpu_seconds=seconds / 2,
        drafting_seconds=drafting_seconds,
        is_contended=is_contended,
    )


def test_a_pace_is_that_of_its_batch_alone():
    """Tails of smaller batches are left out; contended steps are told and stay in."""
    steps = [a_step(8, 10, 1.0, 0.1), a_step(8, 20, 2.0, 0.2, is_contended=True), a_step(4, 99, 1.0)]

    found = pace(steps, batch=8)

    assert (found.num_steps, found.contended_share, found.tokens_per_second, found.seconds) == (2, 0.5, 10.0, 1.5)
    assert (found.tokens_per_cpu_second, found.drafting_seconds) == (20.0, pytest.approx(0.15))
    with pytest.raises(ValueError, match="3 steps, none of batch 2"):
        pace(steps, batch=2)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts engines of the fake model, one drafter each, or none."""
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))
    running = []

    def start(*drafters):
        settings = EngineSettings(
            model_name="fake",
            model_digest="fake",
            max_batch_size=2,
            max_model_len=256,
            kv_blocks=64,
            draft_tokens_max=4,
            speculation_mode=4 if drafters else "off",
        )
        running.append(Engine(runner=FakeRunner(), settings=settings, drafters=drafters))
        running[-1].start()
        assert running[-1].wait_ready(60)
        return Answering(running[-1], None)

    yield start
    for engine in running:
        engine.stop()


def test_both_engines_answer_alike_and_only_one_needs_fewer_steps(started):
    """Its drafter knows the answers; every pure decode step that an engine counted is told."""
    asked = [Asked(prompt=(n, n + 1, 5), question=Question(messages=[]), seed=n, max_tokens=40) for n in range(3)]
    known = {}
    drafted, plain = started(oracle(known)), started()
    for number, tokens in enumerate(plain.answer(asked, batch=1).token_ids * 2):
        known[f"bench-{number}"] = (*asked[number % 3].prompt, *tokens)

    with StepClock().listening() as clock:
        rounds = [in_turn(clock, drafted, plain, asked, batch=1, number=number) for number in range(2)]
    found = Figures.of(rounds, stream="fake", batch=1)

    assert (found.num_equal, found.num_answers) == (6, 6)
    assert found.acceptance_length == 39 / 8  # five tokens a step, and four in the last
    assert rounds[0].plain.num_steps == 3 * 39 == rounds[0].plain_pace.num_steps
    assert rounds[0].drafted.num_steps == 3 * 8 == rounds[0].drafted_pace.num_steps
    assert found.drafting_seconds > 0


def test_the_table_is_no_limit_at_any_batch():
    """Windows decide within it."""
    (row,) = table_of_caps([DrafterChoice.read("look=Suffix")], 16).table

    assert (row.max_batch_size, [(cap.name, cap.draft_tokens) for cap in row.drafters]) == (None, [("look", 16)])
