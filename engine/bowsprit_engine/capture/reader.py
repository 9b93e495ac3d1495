"""Reading captured traffic back: whole shards in the order of their time, the unreadable ones named, never hidden.

Decides which requests fit a model and a window. Refuses to know what they are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from bowsprit_engine.capture import shard
from bowsprit_engine.capture.shard import CapturedRequest
from bowsprit_engine.models.uri import resolve_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTraffic:
    """What was read. `shards` counts the readable ones; `unreadable` names the others with the cause."""

    requests: tuple[CapturedRequest, ...]
    unreadable: tuple[tuple[str, str], ...]
    shards: int


def read_shards(
    uri: str, *, model_digest: str, since: datetime | None = None, max_tokens: int | None = None
) -> CapturedTraffic:
    """The requests of this model, newest last, at most `max_tokens` of the newest.

    A folder that isn't there holds no traffic. Requests of another digest are left out: their tokens are another
    model's.
    """
    folder = resolve_uri(uri)
    found: list[CapturedRequest] = []
    unreadable: list[tuple[str, str]] = []
    paths = _paths(folder)
    for path in paths:
        try:
            found += shard.read(path)
        except (OSError, pa.ArrowException) as error:
            unreadable.append((path.name, f"{type(error).__name__}: {error}"))
    fitting = [
        request
        for request in found
        if request.model_digest == model_digest and (since is None or request.time >= since)
    ]
    fitting.sort(key=lambda request: request.time)
    return CapturedTraffic(
        requests=tuple(_newest(fitting, max_tokens)),
        unreadable=tuple(unreadable),
        shards=len(paths) - len(unreadable),
    )


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == shard.SUFFIX and not path.name.startswith("."))


def _newest(requests: list[CapturedRequest], max_tokens: int | None) -> list[CapturedRequest]:
    if max_tokens is None:
        return requests
    kept, num_tokens = 0, 0
    for request in reversed(requests):
        num_tokens += request.num_tokens
        if num_tokens > max_tokens:
            break
        kept += 1
    return requests[len(requests) - kept :]
