"""Two engines stepped in turn on the same requests: whose step is next, and what is told of both."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from bench.drafter_streams import Question
from bench.paired_steps import Answers, Asked, Block, Figures, Side, SteppedEngine, in_turn
from bench.shared_runner import halves
from bench.step_clock import Step, StepClock
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.core.step import Stepper
from fakes import FakeRunner, oracle

ANSWERS = Answers(token_ids=((1, 2, 3),), num_steps=2, num_drafted=0)


def a_step(tokens, seconds, *, part_seconds=None, is_contended=False):
    return Step(
        batch=1,
        rows=1,
        tokens=tokens,
        seconds=seconds,
        cpu_seconds=seconds / 2,
        thread_seconds=seconds / 4,
        part_seconds=part_seconds or {},
        is_contended=is_contended,
    )


def asked_of(num, *, max_tokens=40):
    return [
        Asked(prompt=(n, n + 1, 5), question=Question(messages=[]), seed=n, max_tokens=max_tokens) for n in range(num)
    ]


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Makes engines of the fake model, one drafter each, or none."""
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))

    def make(*drafters, runner=None):
        settings = EngineSettings(
            model_name="fake",
            model_digest="fake",
            max_batch_size=2,
            max_model_len=256,
            kv_blocks=64,
            draft_tokens_max=4,
            speculation_mode=4 if drafters else "off",
        )
        made = Engine(runner=runner or FakeRunner(), settings=settings, drafters=drafters)
        made.prepare()
        return SteppedEngine(made, None)

    return make


@pytest.fixture
def steps(monkeypatch):
    """Who stepped, in order."""
    seen = []
    step = Stepper.step

    def noted(stepper):
        seen.append(stepper)
        step(stepper)

    monkeypatch.setattr(Stepper, "step", noted)
    return seen


def test_engines_that_emit_as_much_per_step_alternate_strictly(engine, steps):
    """Whoever begins."""
    one, other = engine(), engine()
    with StepClock().listening() as clock:
        in_turn(clock, one, other, asked_of(2), drafted_begins=True)
        num_first, first = len(steps), steps[0]
        in_turn(clock, one, other, asked_of(2), drafted_begins=False)

    assert all(before is not after for before, after in pairwise(steps[:num_first]))
    assert steps[num_first] is not first
    assert len(steps) == 2 * num_first


def test_both_answer_alike_stay_at_the_same_place_and_only_one_needs_fewer_steps(engine, steps):
    """Its drafter knows the answers; every pure decode step that an engine counted is told."""
    asked = asked_of(1)
    known = {}
    drafted, plain = engine(oracle(known)), engine()
    (answers,) = plain.answer(asked, batch=1)
    known["bench-0"] = (*asked[0].prompt, *answers.token_ids[0])
    steps.clear()

    with StepClock().listening() as clock:
        block = in_turn(clock, drafted, plain, asked, drafted_begins=True)
    found = Figures.of([block], stream="fake", batch=1)

    assert (found.num_equal, found.num_answers) == (1, 1)
    assert found.acceptance_length == 39 / 8  # five tokens a step, and four in the last
    assert (block.drafted.num_steps, block.plain.num_steps) == (8, 39)
    assert found.spent.by_part["draft"] > found.plain_spent.by_part["draft"] > 0
    # a prompt's step each; then one drafted step for five plain ones, to the end
    is_drafted = "".join("D" if stepper is steps[0] else "p" for stepper in steps)
    assert is_drafted == "Dp" + "Dppppp" * 7 + "Dpppp"


def test_two_engines_on_one_models_halves_answer_as_one_on_a_model_of_its_own(engine):
    """Neither writes where the other reads, though both name the same blocks."""
    asked = asked_of(2)
    one, other = (engine(runner=half) for half in halves(FakeRunner()))
    with StepClock().listening() as clock:
        block = in_turn(clock, one, other, asked, drafted_begins=True)
        later = in_turn(clock, one, other, asked[::-1], drafted_begins=False)
    (expected,) = engine().answer(asked, batch=2)

    assert block.drafted.answers.token_ids == block.plain.answers.token_ids == expected.token_ids
    assert later.drafted.answers.token_ids == later.plain.answers.token_ids == expected.token_ids[::-1]


def test_goodput_is_of_summed_step_times_and_calm_goodput_of_steps_that_nobody_disturbed():
    """A step of ten seconds counts in the one and not in the other."""
    slow = a_step(1, 10.0, is_contended=True)
    plain = Side.of(ANSWERS, [a_step(1, 1.0), a_step(1, 1.0)])
    drafted = Side.of(ANSWERS, [a_step(3, 2.0, part_seconds={"draft": 0.25, "learn": 0.5, "commit": 1.0}), slow])

    found = Figures.of([Block(drafted=drafted, plain=plain)], stream="s", batch=1)

    assert found.goodput.value == pytest.approx((4 / 12) / 1.0)
    assert found.calm_goodput is not None
    assert found.calm_goodput.value == pytest.approx((4 / 2) / 2.0)
    assert found.cpu_goodput.value == pytest.approx(4 / 6 / (2 / 1))
    assert (found.drafting_share, found.contended_share) == (pytest.approx(0.75 / 12), 0.25)
    assert found.spent.by_part["rest"] == pytest.approx((3.0 - 1.75) / 2 * 1e6)
    assert found.spent.beside_forward == pytest.approx(3.0 / 2 * 1e6)


def test_without_a_calm_step_there_is_no_calm_goodput():
    """None, and no guess."""
    busy = Side.of(ANSWERS, [a_step(1, 1.0, is_contended=True)])

    assert Figures.of([Block(drafted=busy, plain=busy)], stream="s", batch=1).calm_goodput is None


def test_an_answer_that_differs_is_counted():
    """It is a fault of speculation."""
    side = Side.of(ANSWERS, [a_step(1, 1.0)])
    other = replace(side, answers=replace(ANSWERS, token_ids=((1, 2, 4),)))

    found = Figures.of([Block(drafted=side, plain=other), Block(drafted=side, plain=side)], stream="s", batch=1)

    assert (found.num_equal, found.num_answers) == (1, 2)
