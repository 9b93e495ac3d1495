"""What a shard of captured traffic holds: one row per finished request, token ids and never text.

Decides columns and file names. Refuses to know who writes, who reads, and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIX = ".parquet"
TOKENS_KEY = b"bowsprit.tokens"

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("response_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("accepted_counts", pa.list_(pa.int32()), nullable=False),
        pa.field("drafter_names", pa.list_(pa.string()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("temperature", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedRequest:
    """One request. `accepted_counts` and `drafter_names` are per decode step, as FinishedRequest has them.

    `tenant` is a keyed hash, "" where the caller named none.
    """

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


def encode(requests: Sequence[CapturedRequest]) -> bytes:
    """A whole Parquet file; the sum of its tokens is in its footer, so that nobody reads rows to keep a budget."""
    columns = [[getattr(request, name) for request in requests] for name in SCHEMA.names]
    tokens = sum(request.num_tokens for request in requests)
    schema = SCHEMA.with_metadata({TOKENS_KEY: str(tokens).encode()})
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    file = BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), file, compression="zstd")
    return file.getvalue()


def decode(content: bytes) -> list[CapturedRequest]:
    """The rows of a shard. Raises ValueError naming what is wrong; columns that a newer writer added are ignored."""
    try:
        table = pq.read_table(BytesIO(content)).select(SCHEMA.names).cast(SCHEMA)
        rows = table.to_pylist()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"not a readable shard: {error}") from error
    return [
        CapturedRequest(
            time=row["time"].astimezone(UTC),
            model_digest=row["model_digest"],
            tenant=row["tenant"],
            prompt_token_ids=tuple(row["prompt_token_ids"]),
            response_token_ids=tuple(row["response_token_ids"]),
            accepted_counts=tuple(row["accepted_counts"]),
            drafter_names=tuple(row["drafter_names"]),
            finish_reason=row["finish_reason"],
            temperature=row["temperature"],
        )
        for row in rows
    ]


def tokens_in(content: bytes, *, model_digest: str | None = None) -> int:
    """Tokens of a shard, from its footer: of all its rows, or none where all are of other models than this one.

    Raises ValueError for what is no shard.
    """
    try:
        footer = pq.ParquetFile(BytesIO(content)).metadata
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable shard: {error}") from error
    if model_digest is not None and not _may_hold(footer, model_digest):
        return 0
    return int((footer.metadata or {}).get(TOKENS_KEY, b"0"))


def _may_hold(footer: pq.FileMetaData, model_digest: str) -> bool:
    """Whether a row of this model may be there, by the least and the greatest digest of each group of rows."""
    column = SCHEMA.get_field_index("model_digest")
    groups = (footer.row_group(index) for index in range(footer.num_row_groups))
    ranges = [group.column(column).statistics for group in groups if group.num_columns > column]
    return not ranges or any(
        found is None or not found.has_min_max or found.min <= model_digest <= found.max for found in ranges
    )
