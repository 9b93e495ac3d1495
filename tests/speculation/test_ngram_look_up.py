"""The n-gram drafter against brute force, and what it promises per sequence."""

from __future__ import annotations

from functools import partial
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.speculation.drafters.ngram import NGramDrafter, SuffixIndex, continue_from, match_before
from draft_contexts import draft_context

context = partial(draft_context, max_draft_tokens=4)


def propose(drafter, *contexts):
    return [draft.token_ids for draft in drafter.propose(contexts)]


@pytest.mark.parametrize(
    ("token_ids", "draft"),
    [
        ([1, 2, 3, 4, 9, 1, 2], (3, 4, 9, 1)),  # the pair occurred before
        ([1, 2, 3, 9, 1, 2, 5, 9, 1, 2], (5, 9, 1, 2)),  # twice: the most recent
        ([7, 1, 2, 3, 9, 5, 1, 2, 4, 9, 7, 1, 2], (3, 9, 5, 1)),  # a longer suffix beats a more recent one
        ([1, 2, 1, 2, 1, 2], (1, 2, 1, 2)),  # a period goes on past the end
        ([5, 5, 5], (5, 5, 5, 5)),
        ([1, 2, 3, 4], ()),  # nothing occurred before
        ([3, 1, 4, 3], ()),  # a single token isn't enough
        ([8], ()),
    ],
)
def test_the_longest_most_recent_match_is_continued(token_ids, draft):
    """What followed the suffix before is proposed."""
    assert propose(NGramDrafter(name="ngram"), context(token_ids)) == [draft]


def brute_force(token_ids, count):
    for length in range(5, 1, -1):
        for start in range(len(token_ids) - length - 1, -1, -1):
            if len(token_ids) > length and token_ids[start : start + length] == token_ids[-length:]:
                extended = list(token_ids)
                for index in range(count):
                    extended.append(extended[start + length + index])
                return tuple(extended[len(token_ids) :])
    return ()


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 8), st.sampled_from([1, 2, 3, 30]))
def test_the_incremental_index_finds_what_a_full_search_finds(token_ids, count, stride):
    """However the sequence grew, what is found is what a search over all of it finds."""
    index = SuffixIndex()
    for length in range(1, len(token_ids) + 1, stride):
        seen = token_ids[:length]
        index.extend(seen)
        start = index.find(seen)
        found = () if start is None else continue_from(seen, start, count)
        assert found == brute_force(seen, count)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40), st.data())
def test_a_match_is_as_long_as_token_by_token(source, token_ids, data):
    """Comparing many at once changes nothing."""
    end, most = data.draw(st.integers(0, len(source))), data.draw(st.integers(0, 40))
    pairs = zip(reversed(source[:end]), reversed(token_ids), strict=False)
    equal = list(takewhile(lambda pair: pair[0] == pair[1], pairs))

    assert match_before(source, end, token_ids, most=most) == min(most, len(equal))


SOURCE = [*range(10, 30), 99]


@pytest.mark.parametrize(
    ("emitted", "draft"),
    [
        ([10, 11, 12, 13, 14, 77], (16, 17, 18, 19)),  # one token changed: the copy goes on after it
        ([10, 11, 12, 13, 14, 77, 15], (16, 17, 18, 19)),  # one inserted: one matching token is enough
        ([10, 11, 12, 13, 14, 18], (19, 20, 21, 22)),  # three left out
    ],
)
def test_a_copy_resumes_after_an_edit(emitted, draft):
    """Where look-up alone has no match of two tokens, the copy's own place says how it goes on."""
    drafter = NGramDrafter(name="ngram")
    for length in range(2, len(emitted)):
        propose(drafter, context([*SOURCE, *emitted[:length]]))

    assert propose(drafter, context([*SOURCE, *emitted])) == [draft]


def test_looking_ahead_of_the_text_keeps_nothing():
    """What another drafter has drafted is followed for one proposal and is no part of the sequence."""
    drafter = NGramDrafter(name="ngram")
    begun = [*SOURCE, 10, 11]

    ahead = propose(drafter, context(begun, ahead=(20, 21)))

    assert (ahead, propose(drafter, context(begun))) == ([(22, 23, 24, 25)], [(12, 13, 14, 15)])


def test_a_longer_match_is_believed_more():
    """Each drafted token is surer than the one before it, within a probability's bounds."""
    drafts = NGramDrafter(name="ngram").propose(
        [context([*SOURCE, 10, 11], request_id="short"), context([*SOURCE, *SOURCE[:8]], request_id="long")]
    )
    short, long = (draft.confidences for draft in drafts)

    assert list(short) == sorted(short)
    assert 0 < short[0] < long[0] < 1


def test_sequences_do_not_see_each_other_and_are_forgotten():
    """Each request has its own index, which ends with it."""
    drafter = NGramDrafter(name="ngram")
    repeated = [1, 2, 3, 1, 2]

    both = propose(drafter, context(repeated, request_id="a"), context([1, 2], request_id="b"))
    drafter.forget("a")
    drafter.forget("never seen")

    assert both == [(3, 1, 2, 3), ()]
    assert propose(drafter, context([9, 9, 8], request_id="a")) == [()]
