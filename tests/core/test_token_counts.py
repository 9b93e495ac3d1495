"""What penalties count, token by token, against counting it all anew."""

from __future__ import annotations

from collections import Counter

import pytest

from bowsprit_engine.core.token_counts import FIRST_CAPACITY, TokenCounts


def counted(counts: TokenCounts) -> dict[int, float]:
    return dict(zip(counts.token_ids.tolist(), counts.counts.tolist(), strict=True))


@pytest.mark.parametrize("num_prompt", [0, 5, FIRST_CAPACITY - 1, FIRST_CAPACITY, 3 * FIRST_CAPACITY])
def test_more_tokens_are_counted_than_there_was_room_for_at_first(num_prompt):
    """Each of them new, then each of them again, whether prompt or answer is what fills the room."""
    prompt = list(range(num_prompt))
    emitted = [*range(100, 100 + 3 * FIRST_CAPACITY), *range(100, 100 + FIRST_CAPACITY)]
    counts = TokenCounts(prompt)

    for end in range(0, len(emitted) + 1, 7):
        counts.catch_up(emitted[:end])
    counts.catch_up(emitted)

    assert counted(counts) == {**dict.fromkeys(prompt, 0), **Counter(emitted)}


def test_drafts_that_need_more_room_are_taken_back():
    """The counts after them are those before, and a draft is counted while it is one."""
    counts = TokenCounts(range(FIRST_CAPACITY - 1))
    before = counted(counts)

    with counts.drafting():
        for token in (0, 1000, 1001, 1001):
            counts.append_draft(token)
        during = counted(counts)

    assert during == {**before, 0: 1, 1000: 1, 1001: 2}
    assert counted(counts) == before
