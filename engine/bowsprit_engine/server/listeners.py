"""Two ports in one process and one event loop, whose end is ours to decide and not uvicorn's.

Decides how connections are held: kept alive longer than proxies keep theirs, and accepted until the last moment of a
drain, so that whoever connects gets an answer and never a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from bowsprit_engine.errors import WorldError

KEEP_ALIVE_SECONDS = 75  # most clients and proxies give up an idle connection earlier: the server should not be first
BACKLOG = 1024
CLOSE_SECONDS = 3  # what a client that neither reads nor sends may hold up the end of its port


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, which drains first."""
        yield


class Listener:
    """One port. Bound when built: a port in use is known before a model is loaded."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, name: str, close_seconds: int = CLOSE_SECONDS) -> None:
        """Raises WorldError naming the address."""
        self._socket = _bound(host, port, name)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=BACKLOG,
            timeout_graceful_shutdown=close_seconds,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.address[1]

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        await self._server.is_up.wait()

    async def stop(self) -> None:
        """Stop listening, let responses in progress end within `close_seconds`, close idle connections."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    def run(self) -> None:
        """Serve in this thread until `ask_to_stop`."""
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def ask_to_stop(self) -> None:
        self._server.should_exit = True


class ListenerThread:
    """A listener beside a process that computes, as a training run does."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=listener.run, name="bowsprit-control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.ask_to_stop()
        self._thread.join(5.0)


def _bound(host: str, port: int, name: str) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise WorldError(f"the {name} port can't listen on {host}:{port}: {error}", reason="PortUnavailable") from error
