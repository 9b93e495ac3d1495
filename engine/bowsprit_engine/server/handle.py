"""What the server needs of an engine. `core.engine.Engine` is one; tests bring another."""

from __future__ import annotations

from typing import Protocol

from bowsprit_engine.core.request import Request
from bowsprit_policy.wire import DrafterLoad, DrafterStats, EngineStats, PolicyStatus, PolicyTable, Profile


class EngineHandle(Protocol):
    """Any method may be called from any thread."""

    @property
    def is_ready(self) -> bool:
        """Profiled and running."""

    def start(self) -> None: ...

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Returns when the engine has ended."""

    def submit(self, request: Request) -> None:
        """Raises CallerError for one that can never be served, WorldError when none is taken any more."""

    def cancel(self, request_id: str) -> None:
        """The request's last output says `abort`. Unknown ids are ignored."""

    def stats(self) -> EngineStats: ...

    def profile(self) -> Profile: ...

    def policy(self) -> PolicyStatus: ...

    def set_policy(self, table: PolicyTable) -> PolicyStatus:
        """Raises StalePolicyError for an older revision."""

    def drafters(self) -> tuple[DrafterStats, ...]: ...

    def load_drafter(self, name: str, load: DrafterLoad) -> DrafterStats:
        """Blocks while it loads. Raises CallerError, SpeculatorError, ModelError (of a URI)."""
