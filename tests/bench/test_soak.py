"""A short soak; `make soak` runs the long one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bench.soak import Report, soak, tiny_engine
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


def grown(num_bytes: int) -> tuple[tuple[int, int], ...]:
    """Resident memory over 10,000 requests that each leave so many bytes behind."""
    return tuple((ended, 500_000_000 + num_bytes * ended) for ended in range(50, 10_001, 50))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"ends": Counter(stop=9_998)}, ["2 requests were never told their end"]),
        ({"kv_cache_usage": 0.01}, ["1.0% of the KV cache is in use at the end"]),
        ({"rss": grown(4096)}, ["memory grew by 4096 bytes per request, the limit is 512"]),
    ],
)
def test_a_lost_request_a_lost_block_and_growing_memory_are_faults(change: dict[str, Any], words: list[str]) -> None:
    """Of 10,000 requests; a few bytes each are noise."""
    told = {"ends": Counter(stop=9_000, abort=1_000), "kv_cache_usage": 0.0, "rss": grown(20), **change}
    report = Report(num_tokens=1, num_cached_tokens=0, num_preemptions=0, seconds=1.0, **told)

    assert report.faults(10_000) == words
