"""What a draft's tokens gain where rows have a price."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.beliefs import UNPROVEN, Beliefs
from bowsprit_engine.speculation.confidence import TokenKind
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter

COUNTS = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda _: ())
HEAD = FakeDrafter(name="head", draft=lambda _: ())
LONG = Draft(token_ids=(1, 2, 3, 4, 5, 6), confidences=(0.7,) * 6)
SHORT = Draft(token_ids=(1,), confidences=(1.0,))


def gain(draft, row_price):
    candidate = Beliefs([COUNTS]).candidate(COUNTS, "counts", draft, others=(), fortune=2, row_price=row_price)
    return candidate.gain


def test_a_long_unsure_draft_gains_more_than_a_short_sure_one_unless_rows_cost():
    """Its far tokens are worth less than their rows then, and aren't counted."""
    assert gain(LONG, 0.0) > gain(SHORT, 0.0)
    assert gain(LONG, 0.5) < gain(SHORT, 0.5)
    assert gain(LONG, 1.0) == 0.0


def added(beliefs, *, row_price=0.3, had=0.0, fortune=2):
    return list(beliefs.added(HEAD, most=2, fortune=fortune, row_price=row_price, had=had))


def heard(beliefs, *confidences, row_price=0.3, had=0.0):
    draft = Draft(token_ids=(7,) * len(confidences), confidences=confidences)
    candidate = beliefs.candidate(HEAD, "head", draft, others=(), fortune=2, row_price=row_price)
    beliefs.heard(candidate, num_drafted=len(confidences), fortune=2, row_price=row_price, had=had)
    return candidate


def proven():
    """Of a head that kept its word so far: it is taken whole."""
    beliefs = Beliefs([HEAD])
    kind = TokenKind("head", position=4, sureness=None, agreement=None, fortune=4)
    for _ in range(40):
        beliefs.learners[0].learn(kind, matched=True, prior=0.6)
    return beliefs


def test_a_heads_word_is_half_believed_before_any_of_it_was_judged_where_rows_are_dear():
    """Its first drafts are judged whether they are verified or not, so no dear row is spent on finding out."""
    draft = Draft(token_ids=(7,), confidences=(0.9,))

    def believed(beliefs, drafter, row_price):
        candidate = beliefs.candidate(drafter, drafter.name, draft, others=(), fortune=2, row_price=row_price)
        return candidate.survivals[0]

    known = believed(proven(), HEAD, 0.3)
    assert known == believed(proven(), HEAD, 0.1) == believed(Beliefs([HEAD]), HEAD, 0.1)
    assert believed(Beliefs([HEAD]), HEAD, 0.3) == UNPROVEN * known
    assert believed(Beliefs([COUNTS]), COUNTS, 0.3) == believed(Beliefs([COUNTS]), COUNTS, 0.1)


def test_what_a_head_adds_is_unknown_and_hopeful_before_it_was_asked():
    """Rows count for nothing yet: else nobody would ever ask. What another draft has is no gain."""
    beliefs = Beliefs([HEAD])

    assert 0 < added(beliefs)[0] < added(beliefs)[1]
    assert added(beliefs, had=added(beliefs)[1]) == [0.0, 0.0]


def test_nothing_is_heard_of_drafts_before_the_heads_word_was_judged():
    """They are doubted for want of a record: it would be asked for short drafts for ever, where rows are dear."""
    beliefs = Beliefs([HEAD])
    fresh = added(beliefs)
    for _ in range(20):
        heard(beliefs, 0.9, 0.9)

    assert added(beliefs) == fresh


def test_what_a_head_adds_is_what_its_sure_drafts_do_however_many_unsure_ones_there_are():
    """A mean would say that none is worth its row: half of them are, and the others aren't verified."""
    beliefs = proven()
    for _ in range(100):
        heard(beliefs, 0.9, 0.9, row_price=0.5)
        heard(beliefs, 0.01, 0.01, row_price=0.5)

    sure = proven().candidate(
        HEAD, "head", Draft(token_ids=(7,), confidences=(0.9,)), others=(), fortune=2, row_price=0.5
    )
    assert sure.gain > 0
    assert added(beliefs, row_price=0.5)[0] == pytest.approx(sure.gain / 2, rel=0.1)


def test_far_tokens_of_drafts_that_are_cut_as_hopeless_count_as_adding_nothing():
    """Or a head would be asked for longer drafts than pay: only its sure ones are that long."""
    beliefs = Beliefs([HEAD])
    for _ in range(200):
        for confidence, is_match in ((0.95, True), (0.01, False)):
            (kind,) = heard(beliefs, confidence, row_price=0.5).kinds
            for learner in beliefs.learners:
                learner.learn(kind, matched=is_match, prior=0.5)
    for _ in range(400):
        sure, hopeless = heard(beliefs, 0.95, 0.95, row_price=0.5), heard(beliefs, 0.01, 0.01, row_price=0.5)

    first, both = added(beliefs, row_price=0.5)
    assert (len(sure.kinds), len(hopeless.kinds)) == (2, 1)
    assert both - first == pytest.approx((sure.survivals[1] - 0.5) / 2, rel=0.1)


def test_what_a_head_adds_is_told_by_places_alike():
    """Where another draft is as good, or rows cost more than it is sure of, it adds nothing; a swap voids it all."""
    beliefs = proven()
    fresh = added(beliefs)
    for _ in range(100):
        heard(beliefs, 0.9, 0.9, had=0.0)
        heard(beliefs, 0.9, 0.9, had=3.0)
        heard(beliefs, 0.1, 0.1, row_price=0.9)

    assert added(beliefs)[1] > 0.1
    assert added(beliefs, fortune=0)[1] > 0.1
    assert added(beliefs, had=3.0) == [0.0, 0.0]
    assert added(beliefs, row_price=0.9)[0] < 0.05
    beliefs.forget("head")
    assert added(beliefs) == fresh
