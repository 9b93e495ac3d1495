"""Look-up in recent answers: what is found, who may find it, whom it believes, and that it stays small."""

from __future__ import annotations

import tracemalloc
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.native import lookup_library
from bowsprit_engine.speculation.drafters import suffix
from bowsprit_engine.speculation.drafters.answers import BYTES_PER_TOKEN, NGRAMS, PLACES_KEPT, RecentAnswers
from bowsprit_engine.speculation.drafters.base import LearningDrafter
from bowsprit_engine.speculation.drafters.suffix_in_cpp import SuffixInCpp
from bowsprit_engine.speculation.drafters.suffix_in_python import LEAD, SuffixInPython
from draft_contexts import draft_context

TEMPLATE = [900, 901, 902]
NUMBERS = count()

context = partial(draft_context, num_prompt_tokens=len(TEMPLATE))


@pytest.fixture(params=[SuffixInPython, SuffixInCpp])
def new_drafter(request):
    return partial(suffix.SuffixDrafter, name="suffix", look_up=request.param)


def serve(drafter, answer, *, request_id, tenant="", prompt=TEMPLATE, forget=True):
    """A sequence that is served a token at a time, without drafts."""
    for length in range(1, len(answer) + 1):
        drafter.learn(
            context([*prompt, *answer[:length]], request_id=request_id, num_prompt_tokens=len(prompt), tenant=tenant)
        )
    if forget:
        drafter.forget(request_id)


def draft(drafter, token_ids, **changes):
    """For a sequence of its own."""
    return drafter.propose([context(token_ids, request_id=f"asked {next(NUMBERS)}", **changes)])[0].token_ids


def test_an_answer_that_was_given_is_drafted_for_the_next_request(new_drafter):
    """From its first tokens on, and from the template's last ones before it."""
    drafter = new_drafter()
    assert isinstance(drafter, LearningDrafter)
    serve(drafter, range(10, 30), request_id="before")

    assert draft(drafter, [*TEMPLATE, 10]) == tuple(range(11, 19))


def test_what_another_sequence_has_just_emitted_is_known(new_drafter):
    """While it still runs: nobody waits for its end."""
    drafter = new_drafter()
    serve(drafter, range(10, 20), request_id="running", forget=False)

    assert draft(drafter, [*TEMPLATE, 10, 11]) == tuple(range(12, 20))


@pytest.mark.parametrize(("sharing", "drafted"), [("tenant", ()), ("all", tuple(range(11, 19)))])
def test_answers_are_shared_within_a_tenant_unless_told_otherwise(new_drafter, sharing, drafted):
    """Another tenant's speed must not tell what this one was told."""
    drafter = new_drafter(sharing=sharing)
    serve(drafter, range(10, 30), request_id="before", tenant="one")

    assert draft(drafter, [*TEMPLATE, 10], tenant="another") == drafted
    assert draft(drafter, [*TEMPLATE, 10], tenant="one") == tuple(range(11, 19))


def test_a_prompt_is_nobodys_draft_but_its_own_sequences(new_drafter):
    """Of a prompt others see no more than the few tokens before the answer, where the template ends."""
    prompt = [*range(100, 140), *TEMPLATE]
    drafter = new_drafter()
    serve(drafter, range(10, 30), request_id="before", prompt=prompt)

    assert draft(drafter, [*TEMPLATE, *prompt[:10]]) == ()
    own = drafter.propose([context([*prompt, 10, *prompt[:10]], request_id="own", num_prompt_tokens=len(prompt))])[0]
    assert own.token_ids == tuple(prompt[10:18])
    assert len(prompt) > 10 + 8 + LEAD


def test_the_longer_match_wins_the_vote(new_drafter):
    """Two places where the last two tokens occurred; one of them matches further back."""
    drafter = new_drafter()
    serve(drafter, [1, 2, 3, 4, 5, 6, 50], request_id="long")
    for index in range(2):
        serve(drafter, [70 + index, 5, 6, 60], request_id=f"short {index}")

    assert draft(drafter, [*TEMPLATE, 1, 2, 3, 4, 5, 6], max_draft_tokens=1) == (50,)


def test_one_token_that_occurred_before_is_enough(new_drafter):
    """In an answer and in the sequence itself; it is believed less than two of them."""
    drafter = new_drafter()
    serve(drafter, [10, 50, 60, 70], request_id="before")
    after_one = drafter.propose([context([*TEMPLATE, 99, 50], request_id="one")])[0]
    after_two = drafter.propose([context([*TEMPLATE, 10, 50], request_id="two")])[0]

    assert (after_one.token_ids, after_two.token_ids) == ((60, 70), (60, 70))
    assert after_one.confidences[0] < after_two.confidences[0]
    assert draft(drafter, [*TEMPLATE, 7, 8, 9, 7], max_draft_tokens=2) == (8, 9)


def test_the_vote_is_of_more_places_than_the_last_few(new_drafter):
    """Twelve answers went on with 60, the eight after them with 70."""
    drafter = new_drafter()
    for index in range(20):
        serve(drafter, [5, 6, 60 if index < 12 else 70], request_id=f"{index}")

    assert draft(drafter, [*TEMPLATE, 5, 6], max_draft_tokens=1) == (60,)


def test_a_source_that_was_wrong_before_is_believed_less(new_drafter):
    """The same answer promised over and over, and never given: its confidence falls below a half."""
    drafter = new_drafter()
    serve(drafter, range(10, 20), request_id="before")
    sureness = []
    for index in range(12):
        asked = context([*TEMPLATE, 10, 11], request_id=f"r{index}", max_draft_tokens=1)
        drafter.learn(asked)
        sureness.append(drafter.propose([asked])[0].confidences[0])
        drafter.learn(context([*TEMPLATE, 10, 11, 500 + index], request_id=f"r{index}"))
        drafter.forget(f"r{index}")

    assert sureness[0] > 0.5 > sureness[-1]


def test_what_others_drafted_ahead_is_followed_and_nothing_is_kept_of_it(new_drafter):
    """A draft that goes on after another drafter's tokens, of a sequence that then emits them."""
    asked_ahead, not_asked = new_drafter(), new_drafter()
    for drafter in (asked_ahead, not_asked):
        serve(drafter, range(10, 30), request_id="before")
    ahead = asked_ahead.propose([context([*TEMPLATE, 77], ahead=(10, 11, 12))])[0]
    then = [drafter.propose([context([*TEMPLATE, 77, 10, 11, 12])]) for drafter in (asked_ahead, not_asked)]

    assert ahead.token_ids == tuple(range(13, 21))
    assert then[0] == then[1] == [ahead]


def test_the_oldest_answers_make_room():
    """What is kept is bounded over all tenants; of what made room nothing is left, of the others everything."""
    answers = RecentAnswers(max_tokens=100)
    kept = [answers.begin(f"tenant {index}") for index in range(50)]
    for index, answer in enumerate(kept):
        answers.extend(answer, range(index * 10, index * 10 + 10))
        assert answers.num_tokens <= 100

    assert answers.find("tenant 39", range(390, 395)) == ()
    assert [place.token_id for place in answers.find("tenant 40", range(400, 405))] == [405]
    assert answers.num_places == 10 * sum(10 - length for length in NGRAMS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=8))
def test_tokens_are_found_alike_whether_they_came_one_by_one_or_many_at_once(pieces):
    """Only the price differs."""
    at_once, one_by_one = RecentAnswers(max_tokens=100), RecentAnswers(max_tokens=100)
    many, single = at_once.begin("t"), one_by_one.begin("t")
    for piece in pieces:
        at_once.extend(many, piece)
        for token_id in piece:
            one_by_one.extend(single, [token_id])

    text = [token_id for piece in pieces for token_id in piece]
    for end in range(len(text) + 1):
        found, expected = at_once.find("t", text[:end]), one_by_one.find("t", text[:end])
        assert [place.at for place in found] == [place.at for place in expected]
    assert at_once.num_places == one_by_one.num_places


def test_no_more_is_forgotten_than_makes_room():
    """A long answer that goes at once is a pause of every running stream; its end serves until its place is needed."""
    answers = RecentAnswers(max_tokens=1000)
    answers.extend(answers.begin(""), range(1000))
    latest = answers.begin("")
    for token_id in range(2000, 2100):
        answers.extend(latest, [token_id])
        assert answers.num_tokens == 1000

    assert answers.find("", range(91, 99)) == ()  # the hundredth token followed
    assert [place.token_id for place in answers.find("", range(92, 100))] == [100]


def test_an_answer_that_made_room_while_it_runs_learns_no_more():
    """One endless answer doesn't push out what came after it for ever."""
    answers = RecentAnswers(max_tokens=50)
    first, second = answers.begin(""), answers.begin("")
    answers.extend(second, range(20))
    answers.extend(first, range(100, 160))
    answers.extend(first, range(160, 200))

    assert (answers.num_tokens, answers.find("", range(100, 108))) == (50, ())
    assert answers.find("", range(170, 178)) == ()
    assert [place.token_id for place in answers.find("", range(8))] == [8]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=1, max_size=12), st.integers(1, 120))
def test_places_are_those_of_kept_answers_and_few(texts, max_tokens):
    """Whatever comes: within the bound, at most so many places per n-gram, each in an answer that is still kept."""
    answers = RecentAnswers(max_tokens=max_tokens)
    for text in texts:
        answers.extend(answers.begin(""), text)
        places = answers.find("", text)
        assert len(places) <= PLACES_KEPT
        assert all(place.token_id is not None for place in places)
        assert answers.num_tokens <= max_tokens


def test_without_a_library_python_looks_up_and_says_so(monkeypatch, tmp_path, caplog):
    """No compiler, or a build of other sources: a slower service, not none; the memory is planned for what runs."""
    assert suffix.best_look_up() is SuffixInCpp
    assert suffix.memory(live_tokens=50) == (
        suffix.KEPT_TOKENS * SuffixInCpp.bytes_per_token + 50 * SuffixInCpp.bytes_per_live_token,
        "100000 tokens of recent answers, 50 of running sequences, their index, in C++",
    )
    monkeypatch.setattr(lookup_library, "search_path", lambda libraries: (tmp_path,))
    for cached in (lookup_library.library, suffix.best_look_up):
        cached.cache_clear()
    try:
        assert suffix.memory(live_tokens=50) == (
            suffix.KEPT_TOKENS * SuffixInPython.bytes_per_token + 50 * SuffixInPython.bytes_per_live_token,
            "100000 tokens of recent answers, 50 of running sequences, their index, in Python",
        )
        assert f"no libbowsprit_lookup.so in {tmp_path}: build it with" in caplog.text
        drafter = suffix.SuffixDrafter(name="suffix")
        serve(drafter, range(10, 30), request_id="before")
        assert draft(drafter, [*TEMPLATE, 10]) == tuple(range(11, 19))
    finally:
        for cached in (lookup_library.library, suffix.best_look_up):
            cached.cache_clear()


def test_a_kept_token_takes_no_more_memory_than_is_planned_for():
    """Tokens that never repeat are the most expensive: each has n-grams of its own."""
    tracemalloc.start()
    try:
        answers = RecentAnswers(max_tokens=20_000)
        before = tracemalloc.get_traced_memory()[0]
        for index in range(20):
            answers.extend(answers.begin(""), range(index * 1000, index * 1000 + 1000))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert answers.num_tokens == 20_000
    assert 0.5 * BYTES_PER_TOKEN < taken / answers.num_tokens < BYTES_PER_TOKEN
