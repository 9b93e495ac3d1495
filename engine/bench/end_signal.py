"""SIGTERM as an exception, so that whoever measures ends the processes that it started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def leaving_workers_ended() -> Iterator[None]:
    """Within, SIGTERM ends this process as an exception does, and its workers with it. For the main thread.

    Workers at rest are stopped: nothing else would ever end them.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
