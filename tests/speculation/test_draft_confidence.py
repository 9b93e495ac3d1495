"""Probabilities of drafted tokens: begun from a drafter's own word, corrected by what happened, forgotten in time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.speculation.confidence import Calibrator, Fortune, TokenKind, position_bucket, sureness_bucket


def kind(drafter="d", position=0, sureness=None, agreement=None, fortune=1):
    return TokenKind(drafter, position, sureness, agreement, fortune)


def test_nothing_known_is_the_prior_and_half_of_the_drafters_word():
    """A drafter without confidences is believed as its type is."""
    calibrator = Calibrator()

    assert calibrator.probability(kind(), prior=0.35) == 0.35
    assert calibrator.probability(kind(sureness=sureness_bucket(0.95)), prior=0.5) == pytest.approx(0.71875)


def test_a_drafter_that_boasts_is_believed_what_comes_true():
    """Sure of 95 % and right in one of five."""
    calibrator, dice = Calibrator(), random.Random(1)
    boast = kind(sureness=sureness_bucket(0.95))
    for _ in range(1000):
        calibrator.learn(boast, matched=dice.random() < 0.2, prior=0.5)

    assert calibrator.probability(boast, prior=0.6) == pytest.approx(0.2, abs=0.05)


def test_a_kind_never_seen_leans_on_the_coarser_counts():
    """What is known of the same drafter, equally sure, and of nobody else."""
    calibrator = Calibrator()
    for _ in range(100):
        calibrator.learn(kind(sureness=6), matched=False, prior=0.5)

    assert calibrator.probability(kind(sureness=6, position=3, agreement=True), prior=0.6) < 0.1
    assert calibrator.probability(kind("other", sureness=6), prior=0.6) > 0.6


def test_a_drafter_whose_word_came_to_nothing_is_doubted_in_kinds_that_were_never_judged():
    """On a text that nobody foresees not every sureness must be tried; others are believed as before."""
    calibrator = Calibrator()
    unsure, sure = kind(sureness=sureness_bucket(0.3)), kind(sureness=sureness_bucket(0.9))
    before = calibrator.probability(sure, prior=0.6)
    for _ in range(20):
        calibrator.learn(unsure, matched=False, prior=0.6)

    assert calibrator.probability(sure, prior=0.6) < 0.4 * before
    assert calibrator.probability(sure._replace(drafter="other"), prior=0.6) == before
    calibrator.forget("d")
    assert calibrator.probability(sure, prior=0.6) == before


def test_a_drafter_that_is_better_than_its_word_is_believed_its_word_in_kinds_that_were_never_judged():
    """What it does better it shows there too."""
    calibrator = Calibrator()
    before = calibrator.probability(kind(sureness=5), prior=0.6)
    for _ in range(20):
        calibrator.learn(kind(sureness=1), matched=True, prior=0.6)

    assert calibrator.probability(kind(sureness=5), prior=0.6) == before


def test_agreement_of_two_drafters_is_worth_more_where_it_was():
    """Counts apart: right when another agrees, wrong when not."""
    calibrator = Calibrator()
    for _ in range(50):
        calibrator.learn(kind(agreement=True), matched=True, prior=0.5)
        calibrator.learn(kind(agreement=False), matched=False, prior=0.5)

    assert calibrator.probability(kind(agreement=True), prior=0.5) > 0.9
    assert calibrator.probability(kind(agreement=False), prior=0.5) < 0.1


def test_what_was_true_long_ago_is_forgotten():
    """A drafter that turns good is believed after some hundred tokens."""
    calibrator = Calibrator()
    for _ in range(5000):
        calibrator.learn(kind(), matched=False, prior=0.5)
    for _ in range(2000):
        calibrator.learn(kind(), matched=True, prior=0.5)

    assert calibrator.probability(kind(), prior=0.5) > 0.9


KINDS = [
    kind(name, sureness=sureness, fortune=fortune) for name in "ab" for sureness in (None, 3) for fortune in (0, 1)
]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans(), st.sampled_from(KINDS)), max_size=30))
def test_asking_changes_nothing_and_what_was_said_before_is_not_said_again(judged):
    """Values are kept until something is learned of any kind: kinds share their coarser counts."""
    asked, unasked = Calibrator(), Calibrator()
    for learned, matched, question in judged:
        asked.probability(question, prior=0.4)
        asked.probability(learned, prior=0.4)
        for calibrator in (asked, unasked):
            calibrator.learn(learned, matched=matched, prior=0.5)
        asked.probability(question, prior=0.4)

    for prior in (0.4, 0.6):
        assert [asked.probability(of, prior=prior) for of in KINDS] == [
            unasked.probability(of, prior=prior) for of in KINDS
        ]


def test_a_swapped_drafter_begins_again_and_others_stay():
    """Its counts are those of other weights."""
    calibrator = Calibrator()
    for _ in range(100):
        calibrator.learn(kind("old"), matched=True, prior=0.5)
        calibrator.learn(kind("stays"), matched=True, prior=0.5)
    calibrator.forget("old")

    assert calibrator.probability(kind("old"), prior=0.35) == 0.35
    assert calibrator.probability(kind("stays"), prior=0.35) > 0.9


def test_fortune_falls_within_a_few_tokens():
    """From the middle to the worst in eight tokens, and back over it by as many again."""
    fortune = Fortune()
    begin = fortune.bucket
    for _ in range(8):
        fortune.add(matched=False)
    poor = fortune.bucket
    for _ in range(8):
        fortune.add(matched=True)

    assert (begin, poor, fortune.bucket) == (2, 0, 3)


def test_buckets_hold_every_position_and_confidence():
    """Also what is no probability."""
    assert [position_bucket(position) for position in (0, 1, 2, 3, 4, 7, 8, 99)] == [0, 1, 2, 2, 3, 3, 4, 4]
    assert [sureness_bucket(c) for c in (None, 0.0, 0.13, 1.0, 1.5, -1.0, float("nan"))] == [None, 0, 1, 7, 7, 0, 0]
