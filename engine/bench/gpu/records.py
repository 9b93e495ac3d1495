"""What a part of the GPU check found, as values that survive its process: one JSON object a line.

Knows no device and no measuring, only what is kept of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The device and what drives it."""

    kind: ClassVar[str] = "card"
    name: str
    capability: str
    memory_bytes: int
    multiprocessors: int
    torch: str
    triton: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that a reader has to know beside the figures, e.g. why there are none."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotChecked:
    """What should have been looked at, and why it was not."""

    kind: ClassVar[str] = "not_checked"
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`error`: the largest difference by the largest value, or a count of what differs; at most `limit`."""

    kind: ClassVar[str] = "check"
    name: str
    error: float
    limit: float

    @property
    def is_ok(self) -> bool:
        return self.error <= self.limit  # NaN is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """`num_bytes` that must be moved at least, in `seconds`; `torch_seconds`: torch's own operator for the same."""

    kind: ClassVar[str] = "bandwidth"
    name: str
    num_bytes: int
    seconds: float
    torch_seconds: float | None = None

    @property
    def gigabytes_per_second(self) -> float:
        return self.num_bytes / self.seconds / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One cell of T(n): a step of `rows` rows in each of `batch` sequences."""

    kind: ClassVar[str] = "step"
    batch: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """One run beside the plain run of the same prompts; without `acceptance` it is that run."""

    kind: ClassVar[str] = "decoding"
    batch: int
    temperature: float
    acceptance_length: float
    tokens_per_second: float
    of_plain: float
    is_equal: bool
    draft_tokens: int = 0
    acceptance: float | None = None

    @property
    def name(self) -> str:
        return f"text at batch {self.batch}, K {self.draft_tokens}, temperature {self.temperature}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpeed:
    """What transformers reaches."""

    kind: ClassVar[str] = "peer"
    batch: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """The whole engine with a drafter, beside itself without."""

    kind: ClassVar[str] = "engine"
    batch: int
    drafter: str
    tokens_per_second: float
    of_plain: float
    is_equal: bool

    @property
    def name(self) -> str:
        return f"the engine's text at batch {self.batch}, drafter {self.drafter}"


Record = Card | Note | NotChecked | Check | Bandwidth | StepTime | Decoding | EngineRun | PeerSpeed
KINDS: dict[str, type[Record]] = {
    record.kind: record
    for record in (Card, Note, NotChecked, Check, Bandwidth, StepTime, Decoding, EngineRun, PeerSpeed)
}


def faults(record: Record) -> list[str]:
    """What is wrong by this record: a check beyond its limit, a text that speculation changed."""
    if isinstance(record, Check) and not record.is_ok:
        return [record.name]
    if isinstance(record, (Decoding, EngineRun)) and not record.is_equal:
        return [record.name]
    return []


def to_line(record: Record) -> str:
    return json.dumps({"kind": record.kind, **asdict(record)})


def from_line(line: str) -> Record:
    """Raises ValueError for what isn't a record's line, e.g. one that was cut off."""
    values = json.loads(line)
    try:
        return KINDS[values.pop("kind")](**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no record of a GPU check: {line[:200]!r}") from error
