"""The contract between operator and engines: what crosses the control port, as frozen values.

JSON keys are camelCase, Python names snake_case. Readers ignore unknown fields and `EngineStats` carries
`wireVersion`, so that an operator and engines of neighbouring versions work together. Nothing here decides
anything, and nothing here knows Kubernetes, HTTP or torch.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

WIRE_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WireModel(BaseModel):
    """Frozen, camelCase on the wire, tolerant of fields that a newer peer adds."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True
    )


class DrafterType(StrEnum):
    """How a drafter predicts: from the text itself, also from recent answers, by a trained head, by a small model."""

    NGRAM = "NGram"
    SUFFIX = "Suffix"
    HEAD = "Head"
    MODEL = "Model"


COUNT_BASED = frozenset({DrafterType.NGRAM, DrafterType.SUFFIX})
"""Drafters that look tokens up: they cost microseconds, and are scored on emitted text without being used."""


class DrafterState(StrEnum):
    """Whether a drafter may be used, and why not.

    `Empty`: a head that has no revision loaded yet. `Broken`: its load-time self-test failed.
    `LowAcceptance`: the engine lowered it to K=0 on live figures and probes it again.
    """

    ACTIVE = "Active"
    EMPTY = "Empty"
    BROKEN = "Broken"
    LOW_ACCEPTANCE = "LowAcceptance"


class DrafterCap(WireModel):
    """The most draft tokens that one admitted drafter may propose for a sequence in one step."""

    name: str
    draft_tokens: int = Field(ge=0)


class TableRow(WireModel):
    """Caps for every batch up to `max_batch_size` sequences; None means unbounded (the last row only)."""

    max_batch_size: int | None = Field(default=None, ge=1)
    drafters: tuple[DrafterCap, ...] = ()


class PolicyTable(WireModel):
    """The only thing a pod executes: rows ascending in `max_batch_size`, the last one unbounded."""

    revision: int = Field(ge=0)
    table: tuple[TableRow, ...]


class LoweredDrafter(WireModel):
    """A drafter that the engine holds below the table, and why (the engine never raises K above the table).

    `batches`: the batch buckets in which it does, each as its upper bound; an engine of the previous version names them
    in `message` only.
    """

    name: str
    draft_tokens: int
    batches: tuple[int, ...] = ()
    reason: str
    message: str


class PolicyStatus(WireModel):
    """Answer to GET and PUT policy: the table in force and what the engine lowered by itself."""

    revision: int
    table: tuple[TableRow, ...]
    lowered: tuple[LoweredDrafter, ...] = ()


class ShadowScores(WireModel):
    """What one of two revisions got on the sequence-steps that both drafted beside the text.

    `reached[i]`: sequence-steps whose text has a token at position i and of which it drafted and matched all earlier
    positions. `matched[i]`: those of them in which it drafted position i and matched too.
    """

    revision: str | None
    reached: tuple[int, ...] = ()
    matched: tuple[int, ...] = ()


class ShadowStats(WireModel):
    """A candidate revision that drafts beside its drafter's serving one, and serves nobody.

    Its counts are in no other figure. `sequence_steps`: those on which `candidate` and `incumbent` are scored, by the
    same emitted text; all counts begin again when another incumbent serves (None: no revision does).
    `squared_differences`: sum over sequence-steps of (candidate's matched tokens - incumbent's)²; with n sequence-steps
    and d their mean difference, the paired variance is squared_differences / n - d². `seconds`: spent on this shadow,
    of `step_seconds` that steps took since it was loaded. `state`: Active, or Broken (it isn't asked any more).
    """

    state: DrafterState
    reason: str = ""
    sequence_steps: int = 0
    squared_differences: int = 0
    candidate: ShadowScores
    incumbent: ShadowScores | None = None
    seconds: float = 0.0
    step_seconds: float = 0.0


class DrafterStats(WireModel):
    """Counters of one drafter since this engine process started; they only ever grow while `revision` stays.

    `reached[i]`: sequence-steps in which position i was within its cap and its turn, and every earlier position was
    drafted and matched, whether or not i was then drafted. `matched[i]`: those of them in which i was drafted and
    matched too. `extendable[i]`: sequence-steps in which position i was within its cap and its turn, and every earlier
    position was drafted; `drafted[i]`: those of them in which its token stood there. An engine of the previous version
    leaves the two out, and counts as reached only what was drafted. `opportunities`: sequence-steps in which it was
    asked, and of a count-based drafter also those in which asking wasn't worth it; `proposed`: those in which it
    proposed at least one token. `drafted_tokens` and `accepted_tokens` count verified tokens only and exclude the bonus
    token. A count-based drafter that is held at 0 is scored on emitted text where it is asked: that counts in
    `opportunities`, `proposed`, `reached` and `matched`, and in nothing else. `accepted[i]`: of `matched[i]`, those
    that were verified.
    `draft_seconds`: wall seconds spent drafting. Of a drafter with a KV cache of its own: `kv_lag_tokens`, a gauge,
    tokens of live sequences that the target has computed and it hasn't; `not_finite`: drafts that ended in logits that
    are not finite. `shadow`: its candidate, where one is loaded; nothing of it is in the other figures.
    """

    name: str
    type: DrafterType
    state: DrafterState
    reason: str = ""
    revision: str | None = None
    opportunities: int = 0
    proposed: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reached: tuple[int, ...] = ()
    matched: tuple[int, ...] = ()
    extendable: tuple[int, ...] = ()
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    draft_seconds: float = 0.0
    kv_lag_tokens: int = 0
    not_finite: int = 0
    shadow: ShadowStats | None = None

    @property
    def knows_shadows(self) -> bool:
        """Whether the engine that said this has shadows. One that doesn't would serve what is meant for a shadow."""
        return "shadow" in self.model_fields_set


class StepCell(WireModel):
    """Whole-step wall time, summed over the steps of one bucket. Steps that carried prefill are never in a cell.

    `batch`: sequences in the step, `rows`: total verify rows (sequences + draft tokens), `context`: upper bound of
    the mean context length in tokens. Each is a bucket's upper bound. `tokens`: tokens emitted by these steps.
    `contended`: steps left out of the sums because CPU time / (threads x wall time) was below 0.9.
    """

    batch: int
    rows: int
    context: int
    steps: int
    seconds: float
    tokens: int
    contended: int = 0


class Profile(WireModel):
    """Step times measured at start-up on this accelerator, before any traffic.

    A cell with `steps` 0 had contended samples only: its `seconds` are those of the fastest of them. All `cells` are of
    one context; `long_context` tells what a chunk of a prompt takes at a far longer one, where the model has it.
    """

    accelerator: str
    model_digest: str
    dtype: str
    cells: tuple[StepCell, ...]
    long_context: tuple[StepCell, ...] = ()


class CaptureStats(WireModel):
    """What the traffic capture of this pod has kept and why it left some out. Tokens include prompts."""

    enabled: bool = False
    requests: int = 0
    tokens: int = 0
    response_tokens: int = 0
    shards: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)


class EngineStats(WireModel):
    """GET /control/v1/stats: counters since `boot_id` (a new boot id means that every counter began again at 0)."""

    wire_version: int = WIRE_VERSION
    boot_id: str
    model_name: str
    model_digest: str
    uptime_seconds: float
    policy_revision: int
    lowered: tuple[LoweredDrafter, ...] = ()
    draft_tokens_max: int
    max_batch_size: int
    requests_running: int
    requests_waiting: int
    kv_cache_usage: float = Field(ge=0, le=1)
    prompt_tokens: int
    generation_tokens: int
    sequence_steps: int
    probe_steps: int
    prefill_steps: int = 0  # steps that carried prompt rows; they are in no cell
    preemptions: int = 0
    corrupted_requests: int = 0  # ended by target logits that are not finite
    prefix_cache_queries: int = 0  # prompt tokens of admitted requests …
    prefix_cache_hits: int = 0  # … and those of them whose KV was there
    drafters: tuple[DrafterStats, ...]
    cells: tuple[StepCell, ...]
    capture: CaptureStats = CaptureStats()


class DrafterRole(StrEnum):
    """What a loaded revision is used for: to draft for requests, or to be scored beside the one that does."""

    SERVING = "serving"
    SHADOW = "shadow"


class DrafterLoad(WireModel):
    """PUT /control/v1/drafters/{name}: load this speculator into a second buffer and use it from a step on.

    `uri` names the speculator's folder (pvc:// or file://), `sha256` is that of its weights file. To serve a revision
    that is the drafter's shadow promotes it: nothing is read, and no `uri` is needed. `revision` None unloads the one
    of that role.
    """

    revision: str | None
    uri: str | None = None
    sha256: Sha256 | None = None
    role: DrafterRole = DrafterRole.SERVING


class Interval(WireModel):
    """A mean with its 95 % confidence interval over `requests` requests."""

    mean: float
    low: float
    high: float
    requests: int


class Comparison(WireModel):
    """Acceptance length (tokens per sequence-step, bonus included) of the pool without and with the candidate.

    `gain` is the paired relative difference, candidate / incumbent - 1, with its confidence interval. `per_position`:
    of the candidate's own drafts, asked at every step: matched over reached, by position.
    """

    incumbent: Interval
    candidate: Interval
    gain: Interval
    per_position: tuple[float, ...] = ()


class Evaluation(WireModel):
    """The figures that the gate judges. `base` is None while there is no base sample yet (first run)."""

    recent: Comparison
    base: Comparison | None = None


class TrainingPhase(StrEnum):
    """Where a training run is."""

    LOADING = "Loading"
    FEATURES = "Features"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    DONE = "Done"


class TrainingProgress(WireModel):
    """GET /control/v1/progress of a training pod."""

    phase: TrainingPhase
    step: int = 0
    steps: int = 0
    acceptance_length: float | None = None
    message: str = ""


class DataWindow(WireModel):
    """Which captured traffic a run read."""

    start: datetime | None = None
    end: datetime | None = None
    shards: int
    requests_train: int
    requests_holdout: int
    tokens: int
    unreadable_shards: int = 0


class Artifact(WireModel):
    """A stored speculator: `uri` of its folder, sha256 and size in bytes of its weights file."""

    uri: str
    sha256: Sha256
    bytes: int


class TrainingResult(WireModel):
    """What a training pod writes to its termination message (at most 4 KiB of JSON)."""

    wire_version: int = WIRE_VERSION
    succeeded: bool
    reason: str
    message: str
    model_digest: str | None = None
    drafter: str | None = None
    revision: str | None = None
    parent: str | None = None
    artifact: Artifact | None = None
    data: DataWindow | None = None
    evaluation: Evaluation | None = None
    seconds: float = 0.0
