"""The shard: one Parquet file of finished requests as token ids, the only form in which traffic is kept.

Decides columns and names. A shard is written to a temporary name and renamed, so a half-written one is never read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("model_digest", pa.string()),
        ("tenant", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("response_token_ids", pa.list_(pa.int32())),
        ("accepted_counts", pa.list_(pa.int16())),
        ("drafter_names", pa.list_(pa.string())),
        ("finish_reason", pa.string()),
        ("temperature", pa.float32()),
    ]
)
SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedRequest:
    """One finished request. `accepted_counts` and `drafter_names` are per decode step, see FinishedRequest."""

    time: datetime
    model_digest: str
    tenant: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    accepted_counts: tuple[int, ...]
    drafter_names: tuple[str, ...]
    finish_reason: str
    temperature: float

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.response_token_ids)


def write(path: Path, requests: Sequence[CapturedRequest]) -> None:
    """Write a shard under its final name only once it is whole. Raises OSError where the place can't be written."""
    columns = {
        name: [getattr(request, name) for request in requests]
        for name in SCHEMA.names  # tuples become lists
    }
    temporary = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> list[CapturedRequest]:
    """All requests of a shard. Raises OSError or pa.ArrowException for one that can't be read."""
    table = pq.read_table(path, schema=SCHEMA)
    lists = ("prompt_token_ids", "response_token_ids", "accepted_counts", "drafter_names")
    return [
        CapturedRequest(**{key: tuple(value) if key in lists else value for key, value in row.items()})
        for row in table.to_pylist()
    ]
