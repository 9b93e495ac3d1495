"""Take a recorded decision again, from its record alone: the same code must give the same answer.

Refuses to know clusters, clocks and logs: a line goes in, both answers come out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bowsprit_policy import draft_length, gate, promotion, worth
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
    """A rejected candidate."""

    kind: Literal[DecisionKind.REJECT]
    at: float
    inputs: gate.GateInputs
    outcome: gate.Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecord:
    """Another revision serves, or none."""

    kind: Literal[DecisionKind.PROMOTE, DecisionKind.ROLLBACK]
    at: float
    inputs: promotion.PromotionInputs
    outcome: promotion.PromotionOutcome


Record = TableRecord | TrainRecord | GateRecord | PromotionRecord

_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


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
        case PromotionRecord():
            return replace(record, outcome=promotion.decide(record.inputs))
