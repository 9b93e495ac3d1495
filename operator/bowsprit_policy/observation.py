"""What a decision may look at: the fleet as it was scraped once, and what the user set.

Values only. Refuses to know how stats were fetched, what a Kubernetes object is, or what was decided before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy.wire import DrafterType, EngineStats, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class PodObservation:
    """One engine pod in one tick. `stats` None: no fresh answer. `profile` None: not fetched yet, or not there yet."""

    uid: str
    stats: EngineStats | None
    profile: Profile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Every engine pod of one model in one tick; a pod that is gone is simply not in it."""

    pods: tuple[PodObservation, ...]


class SpeculationMode(StrEnum):
    """spec.speculation.mode."""

    AUTO = "Auto"
    FIXED = "Fixed"
    OFF = "Off"


class TrainingMode(StrEnum):
    """spec.training.mode. Only Auto starts runs by itself."""

    AUTO = "Auto"
    MANUAL = "Manual"
    OFF = "Off"


class PromotionMode(StrEnum):
    """spec.promotion.mode. Manual stops at Evaluated; pinning a revision in spec is the user's promotion."""

    AUTO = "Auto"
    MANUAL = "Manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterSpec:
    """A drafter that the user lists. `evaluated`: match per position of its trained revision on held-out requests."""

    name: str
    type: DrafterType
    evaluated: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """What the user and the operator's own settings say about draft lengths.

    `fixed_draft_tokens` is obeyed only in mode Fixed. `dwell_seconds`: least time between two switches of one row.
    `min_draft_tokens` never overrides a K=0 that pays better.
    """

    drafters: tuple[DrafterSpec, ...]
    mode: SpeculationMode = SpeculationMode.AUTO
    min_draft_tokens: int = 0
    max_draft_tokens: int = 8
    fixed_draft_tokens: int = 4
    dwell_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSettings:
    """What the user set under spec.training, in plain units: shares as fractions, times in seconds.

    `horizon_seconds`: how long a better speculator is assumed to serve when a run's return is computed.
    `min_requests`: captured requests below which a run couldn't hold out the 200 that the gate needs.
    """

    drafter: str
    mode: TrainingMode = TrainingMode.AUTO
    acceptance_drop: float = 0.05
    min_tokens: int = 50_000
    min_requests: int = 400
    max_runs_per_day: int = 4
    cooldown_seconds: float = 1800.0
    horizon_seconds: float = 86_400.0
