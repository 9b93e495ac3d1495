"""Trees of drafts in the bench: how they grow, what of them is verified, what they emit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.next_token_counts import Followers, Lookup
from bench.recorded_answers import Answer
from bench.tree_drafts import ROOT, Node, matched, no_tree, oracle_of, replay, tree_of

SHARES = {1: [(2, 0.6), (3, 0.4)], 2: [(4, 0.9)], 3: [(4, 0.5), (5, 0.5)]}


def candidates(text: Sequence[int]) -> Sequence[tuple[int, float]]:
    return SHARES.get(text[-1], [])


def shown(tree: Sequence[Node]) -> list[tuple[int, int, float]]:
    return [(node.token, node.parent, round(node.probability, 3)) for node in tree]


def test_a_tree_grows_at_its_likeliest_leaf_and_a_chain_at_its_only_one() -> None:
    """A node's probability is the product along its path: 3 comes after 2 4, though both begin at the root."""
    ahead = [0] * 9
    assert shown(tree_of(1)(candidates, [1], ahead)) == [(2, ROOT, 0.6), (4, 0, 0.54)]
    assert shown(tree_of(2)(candidates, [1], ahead)) == [
        (2, ROOT, 0.6), (4, 0, 0.54), (3, ROOT, 0.4), (4, 2, 0.2), (5, 2, 0.2),
    ]  # fmt: skip


def test_no_draft_reaches_the_answer_s_last_token() -> None:
    """It is the target's own, whatever is drafted before it."""
    assert shown(tree_of(1)(candidates, [1], [0, 0])) == [(2, ROOT, 0.6)]
    assert tree_of(1)(candidates, [1], [0]) == []


def test_what_is_emitted_is_followed_along_its_own_path() -> None:
    """4 stands below 2 and below 3; a row that windows left out ends the path."""
    tree = tree_of(2)(candidates, [1], [0] * 9)
    assert matched(tree, [3, 5, 7]) == 2
    assert matched(tree[:3], [3, 5, 7]) == 1
    assert matched(tree, [7]) == 0


def test_the_oracle_is_told_which_continuation_comes_and_no_more() -> None:
    """It believes as much as both together; where neither comes it drafts the first in vain."""
    assert shown(oracle_of(2)(candidates, [1], [3, 4, 9, 9])) == [(3, ROOT, 1.0), (4, 0, 1.0)]
    assert shown(oracle_of(1)(candidates, [1], [3, 4, 9, 9])) == [(2, ROOT, 0.6)]


def test_continuations_are_counted_in_the_sequence_and_in_earlier_answers() -> None:
    """After 1 2 an answer went on with 3 and the prompt with 4: both are known, and they are no more than certain."""
    lookup = Lookup()
    earlier = Followers()
    lookup.learn(earlier, [9], [1, 2, 3], answer_begins=1)
    own = Followers()
    own.extend([1, 2, 4, 1, 2], 0)
    known = lookup.candidates(own, [1, 2, 4, 1, 2])
    assert {token for token, _ in known} == {3, 4}
    assert sum(share for _, share in known) <= 1.0


def test_a_kind_of_case_that_never_comes_true_is_believed_less() -> None:
    """The shares of the counts stay, the rate of such cases falls."""
    lookup, own, text = Lookup(), Followers(), [1, 2]
    own.extend(text, 0)
    before = dict(lookup.candidates(own, [7, 1]))[2]
    for token in range(10, 40):
        lookup.learn(own, text, [1, token], answer_begins=2)
    after = lookup.candidates(own, [7, 1])
    assert max(share for _, share in after) < before


def flat(batch: int, rows: int) -> float:
    return 1.0


def steep(batch: int, rows: int) -> float:
    return float(rows)


def twice(tokens: tuple[int, ...]) -> list[Answer]:
    return [Answer(index=i, prompt=(0,), tokens=tokens, is_judged=i == 1) for i in range(2)]


def test_an_answer_that_came_before_is_drafted_where_rows_are_free_and_not_where_they_cost_a_step_each() -> None:
    """The same windows judge trees and chains; a token is never lost."""
    answers = twice(tuple(range(1, 12)))
    drafted = replay(answers, tree_of(2), batch=1, curve=flat)
    plain = replay(answers, no_tree, batch=1, curve=flat)
    assert (drafted.tokens, plain.tokens, plain.steps, plain.rows) == (10, 10, 10, 0)
    assert drafted.steps < plain.steps
    costly = replay(answers, tree_of(2), batch=1, curve=steep)
    assert (costly.steps, costly.rows) == (10, 0)


def test_a_batch_shares_the_seconds_of_its_steps() -> None:
    """Four requests two at a time, plain: as many seconds as steps of two."""
    answers = [Answer(index=i, prompt=(0,), tokens=(1, 2, 3), is_judged=True) for i in range(4)]
    assert replay(answers, no_tree, batch=2, curve=flat).seconds == 4.0


def test_a_batch_below_one_is_refused() -> None:
    """With the value and the limit."""
    with pytest.raises(ValueError, match="batch is 0, the least is 1"):
        replay([], no_tree, batch=0, curve=flat)
