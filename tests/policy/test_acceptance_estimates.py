"""Acceptance per position: what counters say, how old evidence fades, what positions that nobody drafted rest on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_policy.acceptance import AcceptanceState, accepted_per_draft, estimate, update, update_all
from bowsprit_policy.counters import DrafterDelta
from bowsprit_policy.wire import DrafterType


def did(
    *,
    proposed: int,
    reached: tuple[int, ...],
    matched: tuple[int, ...],
    opportunities: int = 0,
    drafted_tokens: int = 0,
    revision: str | None = None,
) -> DrafterDelta:
    return DrafterDelta(
        name="head",
        type=DrafterType.HEAD,
        revision=revision,
        opportunities=opportunities or proposed,
        proposed=proposed,
        drafted_tokens=drafted_tokens or proposed,
        reached=reached,
        matched=matched,
    )


def values(state: AcceptanceState, *, positions: int) -> list[float]:
    return [round(position.value, 2) for position in estimate(state, max_draft_tokens=positions).positions]


def test_a_position_is_matched_over_reached() -> None:
    """Each position has its own figure; nothing is assumed about tokens being alike."""
    state = update(None, did(proposed=10_000, reached=(10_000, 8_000, 2_000), matched=(8_000, 2_000, 1_800)))
    assert values(state, positions=3) == [0.8, 0.25, 0.9]


def test_evidence_halves_after_a_half_life_of_drafts_and_not_with_time() -> None:
    """500 drafts at 1.0 after 500 at 0.0 weigh twice as much."""
    state = update(None, did(proposed=500, reached=(500,), matched=(0,)))
    state = update(state, did(proposed=500, reached=(500,), matched=(500,)))
    assert (state.reached[0], state.matched[0]) == (750.0, 500.0)


def test_an_interval_without_drafts_forgets_nothing() -> None:
    """An idle night changes no estimate."""
    state = update(None, did(proposed=500, reached=(500,), matched=(400,)))
    idle = update(state, did(proposed=0, reached=(0,), matched=(0,)))
    assert state == idle


def test_a_position_that_is_no_longer_drafted_fades_to_its_neighbours_geometric_mean() -> None:
    """K fell to 1 and later probes skip position 1: its old 0.1 gives way to sqrt(0.9 x 0.4)."""
    state = update(None, did(proposed=5000, reached=(5000, 5000, 5000), matched=(4500, 500, 2000)))
    assert values(state, positions=3) == [0.9, 0.1, 0.4]
    for _ in range(200):
        state = update(state, did(proposed=500, reached=(500, 0, 500), matched=(450, 0, 200)))
    assert values(state, positions=3) == [0.9, 0.6, 0.4]


def test_evidence_of_probes_lasts_longer_than_that_of_usual_drafts() -> None:
    """K=1, and one draft in a hundred is a probe of two: position 1 gathers far more than the last few probes."""
    state = None
    for _ in range(100):
        state = update(state, did(proposed=100, drafted_tokens=101, reached=(100, 1), matched=(60, 1)))
    assert state is not None
    assert (state.reached[0] < 800, state.reached[1] > 40) == (True, True)


def test_positions_beyond_any_draft_take_the_nearest_figure_with_a_wide_error() -> None:
    """They may be tried, but don't pass for known."""
    known, unknown = estimate(
        update(None, did(proposed=1000, reached=(1000,), matched=(700,))), max_draft_tokens=2
    ).positions
    assert (round(known.value, 2), round(unknown.value, 2)) == (0.7, 0.7)
    assert unknown.error > 5 * known.error


def test_before_any_traffic_the_stated_prior_holds() -> None:
    """A head that nobody has tried yet."""
    nothing = AcceptanceState(name="head", type=DrafterType.HEAD, revision=None)
    assert values(nothing, positions=3) == [0.35, 0.35, 0.35]
    assert estimate(nothing, max_draft_tokens=3).share.value == 1.0


def test_what_was_evaluated_of_a_revision_is_its_prior_until_it_has_drafted() -> None:
    """Beyond the evaluated positions the last figure holds; live evidence outweighs it as it does any prior."""
    nothing = AcceptanceState(name="head", type=DrafterType.HEAD, revision="1")
    begun = estimate(nothing, max_draft_tokens=4, evaluated=(0.7, 0.6))
    assert [round(position.value, 2) for position in begun.positions] == [0.7, 0.6, 0.6, 0.6]
    live = update(nothing, did(proposed=990, reached=(990,), matched=(99,), revision="1"))
    (first,) = estimate(live, max_draft_tokens=1, evaluated=(0.7, 0.6)).positions
    assert first.value == pytest.approx((99 + 7) / 1000)


def test_another_revision_of_a_drafter_begins_again() -> None:
    """The figures of the speculator before say nothing about the new one."""
    state = update(None, did(proposed=5000, reached=(5000,), matched=(500,), revision="head-1"))
    state = update(state, did(proposed=10, reached=(10,), matched=(9,), revision="head-2"))
    assert (state.revision, state.drafts, state.reached) == ("head-2", 10, (10.0,))


def test_while_a_revision_rolls_out_the_known_one_is_followed_until_no_pod_runs_it() -> None:
    """Two pods a swap apart must not reset the window at every tick."""
    old = did(proposed=100, reached=(100,), matched=(50,), revision="head-1")
    new = did(proposed=100, reached=(100,), matched=(90,), revision="head-2")
    states = update_all((), (old,))
    mixed = update_all(states, (new, old))
    rolled_out = update_all(mixed, (new,))
    assert [s[0].revision for s in (states, mixed, rolled_out)] == ["head-1", "head-1", "head-2"]


def test_the_share_of_proposals_is_over_opportunities() -> None:
    """Look-up is asked often and answers seldom."""
    state = update(None, did(proposed=900, opportunities=3000, reached=(900,), matched=(600,)))
    assert estimate(state, max_draft_tokens=1).share.value == pytest.approx(0.3, abs=0.01)


@given(st.lists(st.floats(0, 1), max_size=16), st.integers(0, 15))
def test_more_draft_tokens_never_give_fewer_accepted_ones(positions: list[float], k: int) -> None:
    """E is monotone in k, whatever the figures are."""
    assert accepted_per_draft(positions, k) <= accepted_per_draft(positions, k + 1)


counts = st.integers(0, 10_000)


@given(
    st.lists(
        st.builds(
            did,
            proposed=counts,
            opportunities=counts,
            reached=st.lists(counts, max_size=9).map(tuple),
            matched=st.lists(counts, max_size=9).map(tuple),
            revision=st.sampled_from([None, "a", "b"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 12),
)
def test_any_counters_give_probabilities(deltas: list[DrafterDelta], positions: int) -> None:
    """Even counters that contradict themselves."""
    state = None
    for delta in deltas:
        state = update(state, delta)
    assert state is not None
    figures = estimate(state, max_draft_tokens=positions)
    assert positions == len(figures.positions)
    assert all(0 <= figure.value <= 1 and figure.error > 0 for figure in (figures.share, *figures.positions))
