"""How many tokens a whole step drafts: exact for small batches, nearly so for large ones."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_policy.draft_rows import spread


def distribution(weights: list[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


lengths = st.lists(st.floats(0.01, 1), min_size=1, max_size=9).map(distribution)


@given(lengths, st.integers(1, 32))
def test_the_spread_is_a_distribution_with_the_mean_of_the_sequences(given_lengths: list[float], batch: int) -> None:
    """Of at most `batch` full drafts."""
    rows = spread(given_lengths, batch=batch)
    mean = batch * sum(n * share for n, share in enumerate(given_lengths))
    assert sum(share for _, share in rows) == pytest.approx(1.0, abs=1e-3)
    assert sum(n * share for n, share in rows) == pytest.approx(mean, rel=0.02, abs=0.6)
    assert all(0 <= n <= batch * (len(given_lengths) - 1) for n, _ in rows)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=4).map(distribution), st.integers(1, 4))
def test_small_batches_are_exact(given_lengths: list[float], batch: int) -> None:
    """Against every combination of what the sequences draft."""
    expected: dict[int, float] = {}
    for drafts in itertools.product(range(len(given_lengths)), repeat=batch):
        probability = math.prod(given_lengths[n] for n in drafts)
        expected[sum(drafts)] = expected.get(sum(drafts), 0.0) + probability
    assert dict(spread(given_lengths, batch=batch)) == pytest.approx({n: p for n, p in expected.items() if p > 1e-6})


def test_a_sequence_that_never_drafts_adds_no_row() -> None:
    """At any batch."""
    assert [spread([1.0], batch=batch) for batch in (1, 8, 64)] == [[(0, 1.0)]] * 3
