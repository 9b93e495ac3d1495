"""What the loops tell reconcile, in memory: the figures, decisions and reasons that status shows.

Written by the control loop and the learning loop of the leader, read by serving/status.py. A new leader begins with
nothing and keeps the stored status until the loops have spoken. Refuses to decide and to know Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bowsprit_policy.control import SpeculationSummary
from bowsprit_policy.decision import Decision

_KEPT_DECISIONS = 10


class ModelKey(NamedTuple):
    """One SpeculativeModel."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSummary:
    """The last tick of the control loop. `reason`, `message`: why the table changed or was held."""

    at: float
    speculation: SpeculationSummary
    reason: str
    message: str
    model_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSummary:
    """The last tick of the learning loop. `serving_revision` None: the drafter is untrained."""

    at: float
    reason: str
    message: str
    serving_revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """All that is known about one model beyond its objects. `decisions`: newest first, at most ten."""

    control: ControlSummary | None = None
    learning: LearningSummary | None = None
    decisions: tuple[Decision, ...] = ()


@dataclass(slots=True)
class Summaries:
    """The store. `on_change` is called with the key after each write (reconcile enqueues it)."""

    on_change: Callable[[ModelKey], None] = lambda _key: None
    _models: dict[ModelKey, ModelSummary] = field(default_factory=dict)

    def of(self, key: ModelKey) -> ModelSummary:
        return self._models.get(key, ModelSummary())

    def put_control(self, key: ModelKey, summary: ControlSummary) -> None:
        self._put(key, replace(self.of(key), control=summary))

    def put_learning(self, key: ModelKey, summary: LearningSummary) -> None:
        self._put(key, replace(self.of(key), learning=summary))

    def add_decisions(self, key: ModelKey, decisions: tuple[Decision, ...]) -> None:
        if decisions:
            before = self.of(key)
            newest_first = sorted((*decisions, *before.decisions), key=lambda decision: decision.at, reverse=True)
            self._put(key, replace(before, decisions=tuple(newest_first[:_KEPT_DECISIONS])))

    def forget(self, key: ModelKey) -> None:
        """The model is gone."""
        self._models.pop(key, None)

    def _put(self, key: ModelKey, summary: ModelSummary) -> None:
        self._models[key] = summary
        self.on_change(key)
