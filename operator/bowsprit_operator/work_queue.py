"""The work queue: which models are to be looked at, each by one worker at a time, with growing pauses after failures.

Level-triggered: a key says "look again", never what happened, so any number of events are one pass. Keys may be added
while nobody works (a follower): they wait. Refuses to know what a key means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

logger = logging.getLogger(__name__)


class WorkQueue(Generic[Key]):
    """For one event loop. `first_pause_seconds` doubles with each failure in a row, up to `last_pause_seconds`.

    `expected`: the errors of the world, logged in one line; any other is a mistake of ours and logged with its trace.
    """

    def __init__(
        self,
        *,
        expected: type[Exception] | tuple[type[Exception], ...] = (),
        first_pause_seconds: float = 0.2,
        last_pause_seconds: float = 60.0,
    ) -> None:
        self._expected = expected
        self._first_pause = first_pause_seconds
        self._last_pause = last_pause_seconds
        self._waiting: dict[Key, None] = {}  # an ordered set: first in, first out
        self._in_work: set[Key] = set()
        self._again: set[Key] = set()  # added while in work
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Condition()
        self._wakers: set[asyncio.Task[None]] = set()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._waiting) + len(self._again)

    def add(self, key: Key) -> None:
        """Look at `key` as soon as a worker is free. Twice is once."""
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = None
            self._wake()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at `key` then, or earlier if it is already due earlier."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._on_timer, key)

    def forget(self, key: Key) -> None:
        """Drop what is due later; a pass that is already wanted still takes place."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def work(self, handle: Callable[[Key], Awaitable[float | None]], *, workers: int) -> None:
        """Until cancelled. `handle` returns the seconds after which to look again, None for not by itself."""
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._worker(handle), name=f"reconcile worker {number}")

    async def _worker(self, handle: Callable[[Key], Awaitable[float | None]]) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
                key = next(iter(self._waiting))
                del self._waiting[key]
                self._in_work.add(key)
            try:
                again_after = await handle(key)
            except Exception as error:
                self._look_again_after(key, error)
            else:
                self._failures.pop(key, None)
                if again_after is not None:
                    self.add_after(key, again_after)
            finally:
                self._in_work.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _look_again_after(self, key: Key, error: Exception) -> None:
        """Whatever it was: the key is looked at again, later and later."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(self._last_pause, self._first_pause * 2 ** min(failures - 1, 30))
        trace = None if isinstance(error, self._expected) else error
        logger.warning("%s: failed %d times, again in %.1f s: %s", key, failures, pause, error, exc_info=trace)
        self.add_after(key, pause)

    def _on_timer(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify()

        waker = asyncio.get_running_loop().create_task(notify())
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)
