"""A short soak; `python -m bench.soak` runs the long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.soak import soak, tiny_engine
from bowsprit_engine.kernels import native


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from two, and waits for the second one wherever processors are shared."""
    before = native.num_threads()
    native.set_num_threads(1)
    yield
    native.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_300_requests_with_cancellations_are_all_answered_and_leave_nothing_behind() -> None:
    """In a cache that is too small for them, with shared beginnings, drafts, preemption and clients that leave."""
    with tiny_engine() as engine:
        report = soak(engine, num_requests=300, seed=3)

    assert report.ends.total() == 300
    assert set(report.ends) <= {"length", "stop", "abort"}
    assert report.ends["abort"] > 0
    assert report.num_preemptions > 0
    assert report.num_cached_tokens > 0
    assert report.kv_cache_usage == 0.0
