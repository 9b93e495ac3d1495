"""SpeculativeModel as typed values: what the user wants, and the status that the controller writes.

Defaults that the schema leaves open are resolved here, once (the `effective_*` properties). Refuses to know children.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from bowsprit_operator.resources.base import Percent, Resource, ResourceValue, Time
from bowsprit_operator.resources.conditions import Condition
from bowsprit_operator.resources.durations import Duration
from bowsprit_operator.resources.kinds import SPECULATIVE_MODEL, Kind
from bowsprit_operator.resources.quantities import Quantity
from bowsprit_policy.observation import PromotionMode, SpeculationMode, TrainingMode
from bowsprit_policy.wire import DrafterType

DEFAULT_DRAFT_TOKENS_MAX = 8


class Dtype(StrEnum):
    AUTO = "Auto"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


class Consent(StrEnum):
    """Whose traffic may be kept."""

    ALL = "All"
    HEADER_ONLY = "HeaderOnly"
    NONE = "None"


class OnDelete(StrEnum):
    RETAIN = "Retain"


class ModelSource(ResourceValue):
    """spec.model."""

    uri: str
    served_name: str | None = None
    dtype: Dtype = Dtype.AUTO
    max_model_len: int | None = None


class EngineSpec(ResourceValue):
    """spec.engine. The Pod's own structures are passed through as they are."""

    image: str | None = None
    resources: dict[str, Any] = Field(default_factory=dict)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] | None = None
    runtime_class_name: str | None = None
    priority_class_name: str | None = None
    env: tuple[dict[str, Any], ...] = ()
    pod_labels: dict[str, str] = Field(default_factory=dict)
    pod_annotations: dict[str, str] = Field(default_factory=dict)
    max_batch_size: int = 16
    kv_cache_memory: Quantity = 2 * 1024**3


class DraftTokens(ResourceValue):
    """spec.speculation.draftTokens: bounds of K."""

    min: int = 0
    max: int | None = None


class DrafterEntry(ResourceValue):
    """One of spec.speculation.drafters. `revision` pins a SpeculatorRevision; None: the promoted one. `uri`: of a draft
    model.
    """

    name: str
    type: DrafterType
    revision: str | None = None
    uri: str | None = None


class SpeculationSpec(ResourceValue):
    """spec.speculation."""

    mode: SpeculationMode = SpeculationMode.AUTO
    draft_tokens: DraftTokens = DraftTokens()
    fixed_draft_tokens: int | None = None
    drafters: tuple[DrafterEntry, ...] = (DrafterEntry(name="suffix", type=DrafterType.SUFFIX),)

    @property
    def effective_draft_tokens_max(self) -> int:
        """The engines' capacity. Without a `max`, a larger fixedDraftTokens raises it."""
        return self.draft_tokens.max or max(DEFAULT_DRAFT_TOKENS_MAX, self.fixed_draft_tokens or 0)


class CaptureSpec(ResourceValue):
    """spec.training.capture. `sample_rate` is a share of one."""

    sample_rate: Percent = 1.0
    max_tokens: Quantity = 2_000_000
    retention: Duration = timedelta(hours=168)
    consent: Consent = Consent.ALL


class TriggerSpec(ResourceValue):
    """spec.training.trigger. `acceptance_drop` is a share of one."""

    acceptance_drop: Percent = 0.05
    min_tokens: Quantity = 50_000


class BudgetSpec(ResourceValue):
    """spec.training.budget."""

    max_runs_per_day: int = 4
    cooldown: Duration = timedelta(minutes=30)
    deadline: Duration = timedelta(hours=1)


class TrainingSpec(ResourceValue):
    """spec.training: of one drafter of type Head."""

    mode: TrainingMode = TrainingMode.AUTO
    drafter: str
    capture: CaptureSpec = CaptureSpec()
    trigger: TriggerSpec = TriggerSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: dict[str, Any] = Field(default_factory=dict)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()


class PromotionSpec(ResourceValue):
    """spec.promotion. `min_gain` is a share of one. `shadow`: the longest time in it; 0 leaves that stage out."""

    mode: PromotionMode = PromotionMode.AUTO
    min_gain: Percent = 0.02
    shadow: Duration = timedelta(minutes=10)


class StorageSpec(ResourceValue):
    """spec.storage."""

    claim_name: str
    on_delete: OnDelete = OnDelete.RETAIN


class SpeculativeModelSpec(ResourceValue):
    """All that the user wants."""

    model: ModelSource
    engine: EngineSpec = EngineSpec()
    replicas: int = 1
    speculation: SpeculationSpec = SpeculationSpec()
    training: TrainingSpec | None = None
    promotion: PromotionSpec = PromotionSpec()
    storage: StorageSpec | None = None

    @property
    def captures_traffic(self) -> bool:
        return self.training is not None and self.training.mode is not TrainingMode.OFF and self.storage is not None


class EffectiveValues(ResourceValue):
    """status.effective."""

    draft_tokens_max: int | None = None
    drafters: tuple[str, ...] = ()
    image: str | None = None
    model_digest: str | None = None


class SpeculationFigures(ResourceValue):
    """status.speculation: rounded strings, absent without evidence."""

    acceptance_length: str | None = None
    acceptance_rate: str | None = None
    per_position: tuple[str, ...] = ()
    speedup: str | None = None
    tokens_per_second: str | None = None
    draft_tokens: int | None = None
    drafter: str | None = None


class SpeculatorRole(StrEnum):
    """What a trained speculator is used for: to draft for requests, or to be scored beside the one that does."""

    SERVING = "Serving"
    SHADOW = "Shadow"


class SpeculatorInUse(ResourceValue):
    """An entry of status.speculators."""

    name: str
    revision: str
    role: SpeculatorRole = SpeculatorRole.SERVING
    acceptance_length: str | None = None


class DecisionEntry(ResourceValue):
    """An entry of status.decisions. `before` and `after` are `from` and `to` in the API."""

    time: Time
    kind: str
    reason: str
    message: str
    before: str | None = Field(default=None, alias="from")
    after: str | None = Field(default=None, alias="to")


class SpeculativeModelStatus(ResourceValue):
    """Written by reconcile alone, whole."""

    observed_generation: int | None = None
    replicas: int = 0
    ready_replicas: int = 0
    selector: str | None = None
    conditions: tuple[Condition, ...] = ()
    effective: EffectiveValues | None = None
    speculation: SpeculationFigures | None = None
    speculators: tuple[SpeculatorInUse, ...] = ()
    decisions: tuple[DecisionEntry, ...] = ()


class SpeculativeModel(Resource):
    """The whole object."""

    KIND: ClassVar[Kind] = SPECULATIVE_MODEL

    spec: SpeculativeModelSpec
    status: SpeculativeModelStatus = SpeculativeModelStatus()

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.metadata.name
