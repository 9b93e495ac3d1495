"""What other threads ask of the engine's thread, and how it sleeps while nobody asks.

Decides who is refused at the door: everybody once the engine ends, and whoever comes while it has as many requests as
it may. Submissions, cancellations and calls are taken between steps, in the order in which they came.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from bowsprit_engine.core.request import Request
from bowsprit_engine.errors import WorldError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """All that came since the last look. `is_closed`: no more will come; `is_aborted`: drop what is running."""

    requests: tuple[Request, ...]
    cancelled: tuple[str, ...]
    calls: tuple[tuple[Callable[[], None], Future[None]], ...]
    is_closed: bool
    is_aborted: bool


class Inbox:
    """A queue with a condition: the engine's thread waits on it, every other thread puts into it."""

    def __init__(self, *, max_inside: int) -> None:
        """`max_inside`: most requests that run, wait, or lie here."""
        self._max_inside = max_inside
        self._num_inside = 0
        self._condition = threading.Condition()
        self._requests: list[Request] = []
        self._cancelled: list[str] = []
        self._calls: list[tuple[Callable[[], None], Future[None]]] = []
        self._is_closed = False
        self._is_aborted = False

    def submit(self, request: Request) -> None:
        """Raises WorldError after `close` (reason Draining), and where there is no room (reason Overloaded)."""
        with self._condition:
            if self._is_closed:
                raise WorldError("the engine is draining and takes no more requests", reason="Draining")
            if self._num_inside + len(self._requests) >= self._max_inside:
                raise WorldError(
                    f"{self._num_inside + len(self._requests)} requests run or wait, the limit is {self._max_inside}",
                    reason="Overloaded",
                )
            self._requests.append(request)
            self._condition.notify()

    def cancel(self, request_id: str) -> None:
        with self._condition:
            self._cancelled.append(request_id)
            self._condition.notify()

    def call(self, function: Callable[[], None]) -> Future[None]:
        """Have the engine's thread run `function` between two steps."""
        future: Future[None] = Future()
        with self._condition:
            self._calls.append((function, future))
            self._condition.notify()
        return future

    def close(self, *, abort: bool = False) -> None:
        with self._condition:
            self._is_closed = True
            self._is_aborted = self._is_aborted or abort
            self._condition.notify()

    def take(self, *, wait: bool, num_inside: int) -> Mail:
        """Everything since the last call; with `wait`, sleep until there is something or the inbox is closed.

        `num_inside`: requests that the engine has now. Those that end later make room from the next call on.
        """
        with self._condition:
            self._num_inside = num_inside
            if wait:
                self._condition.wait_for(lambda: self._requests or self._cancelled or self._calls or self._is_closed)
            mail = Mail(
                requests=tuple(self._requests),
                cancelled=tuple(self._cancelled),
                calls=tuple(self._calls),
                is_closed=self._is_closed,
                is_aborted=self._is_aborted,
            )
            self._num_inside += len(self._requests)
            self._requests.clear()
            self._cancelled.clear()
            self._calls.clear()
            return mail
