"""Two families of errors: the caller's fault and the world's. Only the HTTP edge turns them into responses."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that this package raises on purpose."""


class CallerError(EngineError, ValueError):
    """The caller asked for something that can't be done. `param` names the offending field where there is one."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class WorldError(EngineError, RuntimeError):
    """Something outside failed: a file, a device, memory. `reason` is CamelCase, for conditions and results."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(WorldError):
    """A model that can't be loaded: the message names the path and the cause."""


class SpeculatorError(WorldError):
    """A speculator that can't be loaded: the message names both sides of the mismatch."""


class StalePolicyError(CallerError):
    """A policy table older than the one in force: the sender must take `stored` into account first."""

    def __init__(self, *, stored: int, offered: int) -> None:
        super().__init__(
            f"policy revision {offered} is older than {stored}, which is in force",
            param="revision",
            code="stale_policy",
        )
        self.stored = stored
        self.offered = offered
