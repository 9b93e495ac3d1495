"""What designs of a head are trained and judged on, and how their steps are priced."""

import pytest

from bench.head_table import measured
from bench.head_traffic import JUDGED_TEMPERATURES, TEMPERATURES, is_held_out, kind, sorted_out, stream
from bench.recorded_answers import Answer


@pytest.fixture(scope="module")
def asked():
    return stream()


def words(question):
    return question.messages[-1]["content"].strip()


def test_no_question_that_judges_is_asked_in_training(asked):
    """Under no system prompt and at no temperature."""
    judged = {words(question) for question in asked.questions[-asked.judged :]}
    learned = {words(question) for question in asked.questions[: -asked.judged]}
    assert judged & learned == set()
    assert all(is_held_out(question) for question in asked.questions[-asked.judged :])


def test_what_is_held_out_is_judged_at_each_temperature(asked):
    """The same questions, of both kinds."""
    judged = asked.questions[-asked.judged :]
    by_temperature = [
        [(kind(q), words(q)) for q in judged if q.temperature == temperature] for temperature in JUDGED_TEMPERATURES
    ]
    assert by_temperature[0] == by_temperature[1]
    assert {name for name, _ in by_temperature[0]} == {"chat", "tools"}


def test_chat_is_asked_once_a_round(asked):
    """More often than that only at another round's temperature."""
    learned = [q for q in asked.questions[: -asked.judged] if kind(q) == "chat"]
    assert len(learned) == len(TEMPERATURES) * len({words(q) for q in learned})


def test_answers_are_sorted_by_what_they_are_for(asked):
    """Those of one token say nothing; what is judged goes by kind and temperature."""
    last = len(asked.questions) - 1

    def answer(index, *, tokens, is_judged):
        return Answer(index=index, prompt=(1,), tokens=tokens, is_judged=is_judged)

    learned, short, judged = (
        answer(0, tokens=(1, 2), is_judged=False),
        answer(1, tokens=(1,), is_judged=False),
        answer(last, tokens=(1, 2), is_judged=True),
    )
    found = sorted_out([learned, short, judged], asked.questions)
    question = asked.questions[last]
    assert found.learned == (learned,)
    assert found.judged == {(kind(question), question.temperature): (judged,)}


def test_a_step_between_two_measured_ones_is_priced_between_them():
    """Linear in rows; more rows than were measured are refused by their number."""
    curve = measured({"1": 2.0, "5": 4.0})
    assert [curve(1, rows) for rows in (1, 3, 5)] == [2.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="1 sequences and 6 rows"):
        curve(1, 6)
