"""The work queue, without an API server: one worker a key, twice is once, failures wait longer and longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bowsprit_operator.work_queue import WorkQueue


@asynccontextmanager
async def working(
    queue: WorkQueue[str], handle: Callable[[str], Awaitable[float | None]], *, workers: int = 2
) -> AsyncIterator[None]:
    """Workers for as long as the block lasts."""
    task = asyncio.create_task(queue.work(handle, workers=workers))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_keys_that_were_added_while_nobody_worked_are_handled_once() -> None:
    """A follower collects keys: when it leads, each is one pass."""
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    handled: list[str] = []
    done = asyncio.Event()

    async def handle(key: str) -> None:
        handled.append(key)
        if len(handled) == 2:
            done.set()

    assert queue.depth == 2
    async with working(queue, handle):
        await done.wait()
    assert (handled, queue.depth) == (["a", "b"], 0)


async def test_a_key_is_never_in_two_hands_and_not_lost_while_in_one() -> None:
    """Added during its pass, it has exactly one more pass afterwards."""
    queue: WorkQueue[str] = WorkQueue()
    at_once, most, passes = 0, 0, 0
    began, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(_key: str) -> None:
        nonlocal at_once, most, passes
        at_once, passes = at_once + 1, passes + 1
        most = max(most, at_once)
        began.set()
        await go_on.wait()
        at_once -= 1
        if passes == 2:
            done.set()

    async with working(queue, handle, workers=3):
        queue.add("a")
        await began.wait()
        queue.add("a")
        queue.add("a")
        go_on.set()
        await done.wait()
    assert (most, passes, queue.depth) == (1, 2, 0)


async def test_different_keys_are_handled_at_once_up_to_the_number_of_workers() -> None:
    """Bounded: a thousand models at start are not a thousand passes at once."""
    queue: WorkQueue[str] = WorkQueue()
    at_once, most, passes = 0, 0, 0
    done = asyncio.Event()

    async def handle(_key: str) -> None:
        nonlocal at_once, most, passes
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once, passes = at_once - 1, passes + 1
        if passes == 10:
            done.set()

    for number in range(10):
        queue.add(str(number))
    async with working(queue, handle, workers=3):
        await done.wait()
    assert most == 3


async def test_failures_in_a_row_wait_twice_as_long_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """And a success begins anew; the log has each failure in one line."""
    queue: WorkQueue[str] = WorkQueue(expected=OSError, first_pause_seconds=0.001, last_pause_seconds=0.004)
    tries = 0
    done = asyncio.Event()

    async def handle(_key: str) -> None:
        nonlocal tries
        tries += 1
        if tries <= 4:
            raise OSError("no answer")
        done.set()

    queue.add("a")
    async with working(queue, handle):
        await done.wait()
    assert [record.args[2] for record in caplog.records if isinstance(record.args, tuple)] == [
        0.001,
        0.002,
        0.004,
        0.004,
    ]
    assert [record.exc_info for record in caplog.records] == [None] * 4


async def test_a_pass_may_ask_for_the_next_one() -> None:
    """The seconds that it returns, unless something else comes earlier."""
    queue: WorkQueue[str] = WorkQueue()
    passes = 0
    done = asyncio.Event()

    async def handle(_key: str) -> float | None:
        nonlocal passes
        passes += 1
        if passes == 3:
            done.set()
            return None
        return 0.0 if passes == 1 else 0.001

    queue.add("a")
    async with working(queue, handle):
        await done.wait()
    assert passes == 3


async def test_the_earlier_of_two_times_counts() -> None:
    """A resync in minutes doesn't put off a retry in milliseconds, nor the other way round."""
    queue: WorkQueue[str] = WorkQueue()
    done = asyncio.Event()

    async def handle(_key: str) -> None:
        done.set()

    queue.add_after("a", 600.0)
    queue.add_after("a", 0.001)
    queue.add_after("a", 600.0)
    async with working(queue, handle), asyncio.timeout(10):
        await done.wait()
    assert done.is_set()
