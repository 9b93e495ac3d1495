"""What the loops know about each model right now, in memory: how reconcile learns of it, since loops write no status.

Holds the latest figures and a ring of the last decisions. Decides nothing; a new leader starts empty and takes the
decisions that its predecessor left in status back in with `restore`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bowsprit_policy.control import SpeculationSummary
from bowsprit_policy.decision import Decision
from bowsprit_policy.observation import Observation
from bowsprit_policy.wire import DrafterStats, LoweredDrafter

NUM_DECISIONS_KEPT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKey:
    """Which SpeculativeModel: a re-created one of the same name has another uid and begins afresh."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodReport:
    """One Ready engine pod in the last tick. `failure`: CamelCase reason of a call that failed, None if it answered."""

    name: str
    uid: str
    failure: str | None = None
    message: str = ""
    model_digest: str | None = None
    drafters: tuple[DrafterStats, ...] = ()
    lowered: tuple[LoweredDrafter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """The latest of one model. None means that no tick has seen it yet. `decisions`: newest first, at most ten.

    `reason` and `message` explain the table in force; `learning_reason` and `learning_message` why a run starts or not.
    `observation`: the last scrape as the policy looks at it, for the learning loop.
    """

    scraped_at: float | None = None
    speculation: SpeculationSummary | None = None
    reason: str | None = None
    message: str = ""
    learning_reason: str | None = None
    learning_message: str = ""
    pods: tuple[PodReport, ...] = ()
    decisions: tuple[Decision, ...] = ()
    observation: Observation | None = None

    @property
    def model_digest(self) -> str | None:
        """Of the model that the pods serve; None while no pod has answered."""
        return next((pod.model_digest for pod in self.pods if pod.model_digest), None)


@dataclass(slots=True)
class Summaries:
    """One summary per model. Written by the two loops, read by reconcile; all in one event loop, so no lock."""

    _by_model: dict[ModelKey, ModelSummary] = field(default_factory=dict)

    def of(self, key: ModelKey) -> ModelSummary:
        return self._by_model.get(key, ModelSummary())

    def put(self, key: ModelKey, summary: ModelSummary) -> None:
        self._by_model[key] = summary

    def add_decisions(self, key: ModelKey, decisions: Iterable[Decision]) -> None:
        """Newest last in `decisions`; the oldest beyond ten fall out."""
        summary = self.of(key)
        kept = (*reversed(tuple(decisions)), *summary.decisions)[:NUM_DECISIONS_KEPT]
        self._by_model[key] = replace(summary, decisions=kept)

    def restore(self, key: ModelKey, decisions: tuple[Decision, ...]) -> None:
        """Take in the decisions that status holds (newest first), unless this model is known already."""
        if key not in self._by_model:
            self._by_model[key] = ModelSummary(decisions=decisions[:NUM_DECISIONS_KEPT])

    def keep_only(self, keys: Iterable[ModelKey]) -> None:
        """Forget models that are gone."""
        wanted = set(keys)
        self._by_model = {key: summary for key, summary in self._by_model.items() if key in wanted}
