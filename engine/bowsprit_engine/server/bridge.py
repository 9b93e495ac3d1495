"""From the engine's thread to the event loop: outputs of one step cross with one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bowsprit_engine.core.request import StepOutput

Sink = Callable[[StepOutput], None]


class Bridge:
    """`deliver` may be called from any thread; sinks run on the loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mail: deque[tuple[Sink, StepOutput]] = deque()
        self._is_scheduled = False

    def deliver(self, sink: Sink, output: StepOutput) -> None:
        """Never blocks and never raises: outputs that come after the loop's end have no reader."""
        self._mail.append((sink, output))
        if self._is_scheduled:
            return
        self._is_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed
            self._mail.clear()

    def _drain(self) -> None:
        self._is_scheduled = False  # first: what comes from here on schedules again
        while self._mail:
            sink, output = self._mail.popleft()
            sink(output)
