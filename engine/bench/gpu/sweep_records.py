"""What a sweep found, as JSON lines that are in the file as soon as they are known: the machine may be taken away.

Knows no device and no measuring. A subject has a file of its own, `SUBJECT.jsonl`, so that one is run again alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from bench.gpu.records import Card, Note

AS_IT_IS = "as it is"  # the candidate that is the launcher with the constants it has
TORCH = "torch"  # the candidate that is torch's own operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """`seconds` of one launch (or step) of `case` by `candidate`: its constants, by "/" in their subject's order."""

    kind: ClassVar[str] = "timed"
    case: str
    candidate: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A candidate that can't be launched here, or is wrong."""

    kind: ClassVar[str] = "failed"
    case: str
    candidate: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InStep:
    """One kernel's part of a step: all its launches together, in `seconds` of the device."""

    kind: ClassVar[str] = "in_step"
    case: str
    kernel: str
    launches: float
    seconds: float


Record = Card | Note | Timed | Failed | InStep
_KINDS: dict[str, type[Record]] = {record.kind: record for record in (Card, Note, Timed, Failed, InStep)}


def read(path: Path) -> list[Record]:
    """What the file holds now, without a line that isn't whole yet; nothing if there is none."""
    text = path.read_text() if path.exists() else ""
    return [_from_line(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Lines:
    """The records of one subject in its file. A line that was cut off is dropped when the file is opened again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records = read(path)
        data = path.read_bytes() if path.exists() else b""
        if not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])

    def add(self, record: Record) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": record.kind, **asdict(record)}) + "\n")
        self.records.append(record)


def _from_line(line: str) -> Record:
    values = json.loads(line)
    return _KINDS[values.pop("kind")](**values)
