"""Engines that cut drafts where they are unsure: what their counters say is neither too much gain nor too many rows.

The engine here counts in expectation over a large number of steps, so that nothing is left to chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_policy import drift
from bowsprit_policy.acceptance import AcceptanceEstimate, AcceptanceState, estimate, update, update_all
from bowsprit_policy.composition import Member, acceptance_length, draft_lengths
from bowsprit_policy.counters import DrafterDelta, total
from bowsprit_policy.counters import delta as delta_of
from bowsprit_policy.wire import DrafterType
from builders import drafter_stats, engine_stats

STEPS = 1_000_000
MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Steps of one kind: how often they come, and how likely each of the drafter's tokens is to match in them."""

    weight: float
    matches: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowedEngine:
    """It drafts a token while the chance that all up to it match is at least `floor`; () as matches: no proposal."""

    kinds: tuple[Kind, ...]
    cap: int
    floor: float

    def windows(self, cap: int) -> list[tuple[float, list[float], int]]:
        """Of each kind: its share of steps, the chance that the draft matches up to each token, the tokens drafted."""
        all_of_them = sum(kind.weight for kind in self.kinds)
        found = []
        for kind in self.kinds:
            survivals = [math.prod(kind.matches[: i + 1]) for i in range(len(kind.matches))][:cap]
            length = next((i for i, survival in enumerate(survivals) if survival < self.floor), len(survivals))
            found.append((kind.weight / all_of_them, survivals, length))
        return found

    def true_acceptance_length(self, cap: int) -> float:
        return 1.0 + sum(share * sum(survivals[:length]) for share, survivals, length in self.windows(cap))

    def true_draft_tokens(self) -> float:
        return sum(share * length for share, _, length in self.windows(self.cap))

    def counts(self) -> DrafterDelta:
        """As wire.DrafterStats says, after STEPS sequence-steps."""
        reached, matched, extendable, drafted = ([0.0] * self.cap for _ in range(4))
        for share, survivals, length in self.windows(self.cap):
            for i in range(min(self.cap, length + 1)):
                extendable[i] += STEPS * share
                reached[i] += STEPS * share * (survivals[i - 1] if i > 0 else 1.0)
            for i in range(length):
                drafted[i] += STEPS * share
                matched[i] += STEPS * share * survivals[i]
        return DrafterDelta(
            name="suffix",
            type=DrafterType.NGRAM,
            revision=None,
            opportunities=STEPS,
            proposed=round(drafted[0]),
            drafted_tokens=round(sum(drafted)),
            accepted_tokens=round(sum(matched)),
            reached=tuple(map(round, reached)),
            matched=tuple(map(round, matched)),
            extendable=tuple(map(round, extendable)),
            drafted=tuple(map(round, drafted)),
        )


def member(figures: AcceptanceEstimate) -> Member:
    return Member(
        name=figures.name,
        type=DrafterType.NGRAM,
        share=figures.share.value,
        positions=tuple(position.value for position in figures.positions),
        lengths=figures.lengths,
        unit_seconds=0.0,
    )


kinds = st.builds(
    Kind,
    weight=st.floats(0.1, 1),
    matches=st.lists(st.floats(0.02, 0.999), max_size=MAX).map(tuple),
)
engines = st.builds(
    WindowedEngine,
    kinds=st.lists(kinds, min_size=1, max_size=4).map(tuple),
    cap=st.integers(1, MAX),
    floor=st.floats(0, 0.9),
)


@given(engines)
def test_windows_never_make_the_acceptance_length_look_larger_than_it_is(engine: WindowedEngine) -> None:
    """At the cap in force and at each below, whatever was cut: within the prior's weight of 10 drafts in a million."""
    pool = [member(estimate(update(None, engine.counts()), max_draft_tokens=MAX))]
    for cap in range(engine.cap + 1):
        assert acceptance_length(pool, (cap,)) <= engine.true_acceptance_length(cap) + 1e-3


@given(engines)
def test_at_the_cap_in_force_the_estimates_are_what_the_engine_does(engine: WindowedEngine) -> None:
    """Acceptance length and rows both."""
    pool = [member(estimate(update(None, engine.counts()), max_draft_tokens=MAX))]
    shares = draft_lengths(pool, (engine.cap,))
    assert acceptance_length(pool, (engine.cap,)) == pytest.approx(engine.true_acceptance_length(engine.cap), abs=1e-3)
    assert sum(n * share for n, share in enumerate(shares)) == pytest.approx(engine.true_draft_tokens(), abs=1e-3)
    assert sum(shares) == pytest.approx(1.0)


@given(engines)
def test_a_draft_is_never_priced_shorter_than_what_is_accepted_of_it(engine: WindowedEngine) -> None:
    """Beyond what was ever in reach too: a token that matches was drafted."""
    figures = estimate(update(None, engine.counts()), max_draft_tokens=MAX)
    drafted = accepted = 1.0
    for i, (position, length) in enumerate(zip(figures.positions, figures.lengths, strict=True)):
        drafted, accepted = drafted * length, accepted * position.value
        assert 0 <= accepted <= drafted + 1e-9, i
        assert 0 <= length <= 1


def test_beyond_what_was_ever_in_reach_drafts_end_as_often_as_at_the_last_position() -> None:
    """A cap of 2, and half of the drafts are cut at the second token: of what is left half at each further one."""
    kinds = (Kind(weight=1.0, matches=(0.9,) * 8), Kind(weight=1.0, matches=(0.9, 0.1)))
    engine = WindowedEngine(kinds=kinds, cap=2, floor=0.5)
    lengths = estimate(update(None, engine.counts()), max_draft_tokens=4).lengths
    assert lengths == pytest.approx((1.0, 0.5, 0.5, 0.5), abs=0.001)


def test_an_engine_of_the_previous_version_is_priced_at_full_drafts() -> None:
    """It says nothing of lengths: one row and the cap."""
    counts = DrafterDelta(
        name="head",
        type=DrafterType.HEAD,
        revision=None,
        opportunities=1000,
        proposed=1000,
        drafted_tokens=3000,
        reached=(1000, 500, 250),
        matched=(500, 250, 125),
    )
    pool = [member(estimate(update(None, counts), max_draft_tokens=5))]
    assert draft_lengths(pool, (5,))[5] == pytest.approx(1.0, abs=0.01)


def test_while_versions_are_mixed_the_engines_that_say_how_long_drafts_were_speak() -> None:
    """A rolling update must not add figures of two meanings; the older ones speak again when they are alone."""
    engine = WindowedEngine(kinds=(Kind(weight=1.0, matches=(0.8, 0.8)),), cap=2, floor=0.0)
    new = engine.counts()
    old = DrafterDelta(
        name="suffix", type=DrafterType.NGRAM, revision=None, opportunities=9, proposed=9, reached=(9,), matched=(1,)
    )
    before = update_all((), (old,))
    mixed = update_all(before, (old, new))
    after = update_all(mixed, (old,))
    assert [states[0].has_lengths for states in (before, mixed, after)] == [False, True, False]
    assert (mixed[0].reached[0], after[0].reached[0]) == (STEPS, 9)


def test_two_pods_of_two_versions_are_summed_apart() -> None:
    """The fleet's sum keeps what each counts."""
    old = engine_stats(drafters=[drafter_stats(proposed=5, reached=(5,), matched=(2,))])
    new = engine_stats(drafters=[drafter_stats(proposed=7, reached=(9,), matched=(2,), extendable=(9,), drafted=(7,))])
    sums = total([delta_of(None, old), delta_of(None, new), delta_of(None, new)])
    assert [(drafter.reached, drafter.drafted) for drafter in sums.drafters] == [((5,), ()), ((18,), (14,))]


def test_look_up_that_is_scored_while_nothing_is_drafted_may_begin_drafts_again() -> None:
    """Before, it began a draft in one turn of twenty; scored at K=0, it would have been right in nine of ten."""
    poor = DrafterDelta(
        name="ngram",
        type=DrafterType.NGRAM,
        revision=None,
        opportunities=2000,
        proposed=100,
        drafted_tokens=200,
        reached=(2000, 50),
        matched=(50, 20),
        extendable=(2000, 100),
        drafted=(100, 100),
    )
    scored = DrafterDelta(
        name="ngram",
        type=DrafterType.NGRAM,
        revision=None,
        opportunities=4000,
        proposed=3800,
        reached=(4000, 3600),
        matched=(3600, 3240),
        extendable=(0, 0),
        drafted=(0, 0),
    )
    pool = [member(estimate(update(update(None, poor), scored), max_draft_tokens=2))]
    assert acceptance_length(pool, (2,)) == pytest.approx(1 + 0.9 + 0.81, abs=0.05)


def test_a_narrower_window_is_no_drift() -> None:
    """Under load the engine cuts each draft after the first token; the head is as good as ever."""
    wide = WindowedEngine(kinds=(Kind(weight=1.0, matches=(0.7,) * 4),), cap=4, floor=0.0)
    narrow = WindowedEngine(
        kinds=(Kind(weight=0.2, matches=(0.7,) * 4), Kind(weight=0.8, matches=(0.7,))), cap=4, floor=0.0
    )
    state = drift.update_drift(None, wide.counts(), acceptance_drop=0.05)
    for _ in range(3):
        state = drift.update_drift(state, narrow.counts(), acceptance_drop=0.05)
    figures = drift.measure(state, acceptance_drop=0.05)
    assert (figures.has_dropped(0.05), figures.is_sliding()) == (False, False)
    assert figures.short == pytest.approx(figures.long, rel=0.01)


def test_a_worse_head_behind_the_same_window_is_drift() -> None:
    """The windows don't hide it."""
    before = WindowedEngine(kinds=(Kind(weight=1.0, matches=(0.7,) * 4),), cap=4, floor=0.3)
    after = WindowedEngine(kinds=(Kind(weight=1.0, matches=(0.4,) * 4),), cap=4, floor=0.3)
    state = drift.update_drift(None, before.counts(), acceptance_drop=0.05)
    long: AcceptanceState = state.long
    state = drift.update_drift(state, after.counts(), acceptance_drop=0.05)
    figures = drift.measure(drift.DriftState(short=state.short, long=long), acceptance_drop=0.05)
    assert figures.has_dropped(0.05)
