"""What the process is doing: starting, serving, draining, or failed; and what it serves once it does.

Decides readiness and its reason, the same words for probes and for callers. Holds no logic of requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.server.bridge import Bridge
from bowsprit_engine.server.errors import UnavailableError
from bowsprit_engine.server.grammars import Grammars
from bowsprit_engine.server.handle import EngineHandle
from bowsprit_engine.server.latencies import Latencies
from bowsprit_engine.server.prompts import PromptEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """All that answering a request needs, complete from the moment the model is loaded."""

    engine: EngineHandle
    prompts: PromptEncoder
    grammars: Grammars
    bridge: Bridge
    latencies: Latencies
    capture: Capture
    model_name: str
    model_digest: str
    max_model_len: int
    vocab_size: int
    max_requests: int  # of the engine, those that wait included: no request has more choices
    created: int  # seconds since the epoch

    @property
    def fingerprint(self) -> str:
        """Changes with whatever could change outputs at equal seeds: the model."""
        return f"bowsprit-{self.model_digest[:12]}"


class Lifecycle:
    """Read and changed on the event loop only."""

    def __init__(self) -> None:
        self.stage = "loading the model"  # of starting up
        self.served: Served | None = None
        self.is_draining = False
        self.num_in_flight = 0  # HTTP requests of the serving port
        self.is_idle = asyncio.Event()  # none is
        self.is_idle.set()
        self.drain_asked = asyncio.Event()  # by a signal, a call, or a failure
        self.failure: str | None = None  # why the process must end
        self.has_failure = asyncio.Event()
        self._was_ready = False

    def fail(self, message: str) -> None:
        """The engine ended by itself: answer that, and end the process."""
        self.failure = message
        self.has_failure.set()
        self.drain_asked.set()

    def why_not_ready(self) -> str | None:
        """None when requests are served now."""
        if self.has_failed:
            return self.failure or "the engine has ended"
        if self.is_draining:
            return "draining"
        if self.served is None or not self.served.engine.is_ready:
            return self.stage
        self._was_ready = True
        return None

    @property
    def has_failed(self) -> bool:
        """The engine has ended without being asked to."""
        if self.failure is not None:
            return True
        is_gone = self.served is not None and not self.served.engine.is_ready
        return self._was_ready and is_gone and not self.is_draining

    def enter(self) -> None:
        """A request of the serving port begins."""
        self.num_in_flight += 1
        self.is_idle.clear()

    def leave(self) -> None:
        """It has been answered, or its client is gone."""
        self.num_in_flight -= 1
        if self.num_in_flight == 0:
            self.is_idle.set()

    def begin_drain(self) -> None:
        self.is_draining = True
        self.drain_asked.set()

    def ready(self) -> Served:
        """Raises UnavailableError, with the reason, unless requests are served now."""
        why = self.why_not_ready()
        if why is not None or self.served is None:
            reason = "Failed" if self.has_failed else "Draining" if self.is_draining else "Starting"
            raise UnavailableError(f"not ready: {why}", reason=reason)
        return self.served
