"""Take a recorded decision again, from its record alone: the same code must give the same answer.

Refuses to know clusters, clocks and logs: a line goes in, both answers come out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter

from bowsprit_policy import draft_length, gate, promotion, shadow, worth
from bowsprit_policy.decision import DecisionKind
from bowsprit_policy.table_decision import DraftLengthInputs, TableDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRecord:
    """A change of the table."""

    kind: Literal[DecisionKind.DRAFT_LENGTH]
    at: float
    inputs: DraftLengthInputs
    outcome: TableDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecord:
    """A started run."""

    kind: Literal[DecisionKind.TRAIN]
    at: float
    inputs: worth.StartInputs
    outcome: worth.StartDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """A candidate that the gate rejected."""

    kind: Literal[DecisionKind.REJECT]
    at: float
    inputs: gate.GateInputs
    outcome: gate.Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRecord:
    """A candidate that was rejected while it drafted in the shadow."""

    kind: Literal[DecisionKind.REJECT]
    at: float
    inputs: shadow.ShadowInputs
    outcome: shadow.ShadowJudgement


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecord:
    """Another revision serves, or none; or one begins to draft in the shadow."""

    kind: Literal[DecisionKind.PROMOTE, DecisionKind.ROLLBACK, DecisionKind.SHADOW]
    at: float
    inputs: promotion.PromotionInputs
    outcome: promotion.PromotionOutcome


Record = TableRecord | TrainRecord | GateRecord | ShadowRecord | PromotionRecord


def _tag(line: Any) -> str | None:
    """Which record a parsed line is: by its kind, and a rejection by who rejected. None is refused."""
    match line:
        case {"kind": DecisionKind.DRAFT_LENGTH}:
            return "table"
        case {"kind": DecisionKind.TRAIN}:
            return "train"
        case {"kind": DecisionKind.REJECT, "inputs": {"pods": _}}:
            return "shadow"
        case {"kind": DecisionKind.REJECT}:
            return "gate"
        case {"kind": _}:
            return "promotion"
    return None


_RECORD: TypeAdapter[Record] = TypeAdapter(
    Annotated[
        Annotated[TableRecord, Tag("table")]
        | Annotated[TrainRecord, Tag("train")]
        | Annotated[GateRecord, Tag("gate")]
        | Annotated[ShadowRecord, Tag("shadow")]
        | Annotated[PromotionRecord, Tag("promotion")],
        Discriminator(_tag),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What was decided then and what these inputs give now."""

    recorded: Record
    replayed: Record

    @property
    def is_same(self) -> bool:
        return self.recorded == self.replayed


def replay(line: str) -> Replay:
    """Decide again from a line of the log. Raises pydantic.ValidationError when it isn't a record."""
    recorded = _RECORD.validate_json(line)
    return Replay(recorded=recorded, replayed=_decided_again(recorded))


def _decided_again(record: Record) -> Record:
    match record:
        case TableRecord():
            return replace(record, outcome=draft_length.decide(record.inputs))
        case TrainRecord():
            return replace(record, outcome=worth.decide(record.inputs))
        case GateRecord():
            return replace(record, outcome=gate.decide(record.inputs))
        case ShadowRecord():
            return replace(record, outcome=shadow.decide(record.inputs))
        case PromotionRecord():
            return replace(record, outcome=promotion.decide(record.inputs))
