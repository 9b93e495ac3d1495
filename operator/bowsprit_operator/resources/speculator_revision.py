"""SpeculatorRevision as typed values: a trained speculator and its evaluation, which outlive their SpeculativeModel."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from bowsprit_operator.resources.base import Decimal6, Resource, ResourceValue, Time
from bowsprit_operator.resources.conditions import Condition
from bowsprit_operator.resources.kinds import SPECULATOR_REVISION, Kind
from bowsprit_policy import wire


class Interval(ResourceValue):
    """A mean with its 95 % confidence interval; decimal strings in the API."""

    mean: Decimal6
    low: Decimal6
    high: Decimal6
    requests: int


class Comparison(ResourceValue):
    """Acceptance length without (incumbent) and with it (candidate), and the relative gain.

    `per_position`: how likely each of its own draft tokens was to match, given that those before it did.
    """

    incumbent: Interval
    candidate: Interval
    gain: Interval
    per_position: tuple[Decimal6, ...] = ()


class RevisionEvaluation(ResourceValue):
    """The figures that the gate judged."""

    recent: Comparison
    base: Comparison | None = None

    @classmethod
    def of(cls, evaluation: wire.Evaluation) -> RevisionEvaluation:
        return cls.model_validate(evaluation.model_dump(by_alias=True))

    def on_the_wire(self) -> wire.Evaluation:
        return wire.Evaluation.model_validate(self.model_dump(by_alias=True, context=None, mode="python"))


class RevisionData(ResourceValue):
    """The captured traffic that it was trained on."""

    start: Time | None = None
    end: Time | None = None
    shards: int | None = None
    requests_train: int | None = None
    requests_holdout: int | None = None
    tokens: int | None = None
    unreadable_shards: int | None = None


class SpeculatorRevisionSpec(ResourceValue):
    """Immutable."""

    model_name: str
    drafter: str
    number: int
    training: str | None = None
    parent: str | None = None
    model_digest: str
    artifact: wire.Artifact
    data: RevisionData | None = None
    seconds: Decimal6 | None = None
    evaluation: RevisionEvaluation | None = None


class RevisionStage(StrEnum):
    """How far a revision has come. Evaluated: it passed the gate, and waits for its shadow or for the user."""

    EVALUATED = "Evaluated"
    SHADOW = "Shadow"
    PROMOTED = "Promoted"
    REJECTED = "Rejected"


class Difference(ResourceValue):
    """Of matched tokens per place, with the interval that holds however often it is looked at; decimal strings."""

    mean: Decimal6
    low: Decimal6
    high: Decimal6


class ShadowProgress(ResourceValue):
    """What was scored since `start_time`: places of live text, and tokens matched per place by it and by `incumbent`.

    Figures are written when there are twice as many places, and at the end. `incumbent` None: none serves.
    """

    start_time: Time
    incumbent: str | None = None
    pods: int = 0
    places: int = 0
    candidate_matched: Decimal6 | None = None
    incumbent_matched: Decimal6 | None = None
    difference: Difference | None = None


class SpeculatorRevisionStatus(ResourceValue):
    """Conditions: Evaluated, Shadowed, Promoted, Rejected, RolledBack. `stage` sums them up."""

    stage: RevisionStage | None = None
    conditions: tuple[Condition, ...] = ()
    shadow: ShadowProgress | None = None


class SpeculatorRevision(Resource):
    """The whole object. It carries no owner reference."""

    KIND: ClassVar[Kind] = SPECULATOR_REVISION

    spec: SpeculatorRevisionSpec
    status: SpeculatorRevisionStatus = SpeculatorRevisionStatus()
