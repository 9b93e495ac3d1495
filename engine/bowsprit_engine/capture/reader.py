"""Captured traffic within a window, for training: what could be read, and what could not and why.

Decides order and limits, and tells beforehand how much there is; an unreadable shard is reported and never fails the
read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from bowsprit_engine.capture import schema
from bowsprit_engine.capture.schema import CapturedRequest
from bowsprit_engine.capture.store import Shard, ShardStore
from bowsprit_engine.errors import WorldError

__all__ = ["CapturedRequest", "CapturedTraffic", "num_tokens", "read_shards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTraffic:
    """`requests` in the order of their time. `unreadable`: (shard, reason). `shards`: how many were read.

    `other_models`: requests left out because another model (digest) answered them.
    """

    requests: list[CapturedRequest] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    shards: int = 0
    other_models: int = 0


def read_shards(
    uri: str, *, model_digest: str, since: datetime | None = None, max_tokens: int | None = None
) -> CapturedTraffic:
    """The newest requests that this model answered after `since` (aware), at most `max_tokens` tokens of them.

    Raises WorldError CaptureUnreadable when the folder can't be listed; one without shards is empty traffic.
    """
    store, newest_first = _opened(uri)
    requests: list[CapturedRequest] = []
    unreadable: list[tuple[str, str]] = []
    tokens = num_read = other_models = 0
    for shard in newest_first:
        if (max_tokens is not None and tokens >= max_tokens) or (since is not None and shard.time < since):
            break
        try:
            rows = schema.decode(store.read(shard.name))
        except (OSError, ValueError) as error:
            unreadable.append((shard.name, _first_line(error)))
            continue
        num_read += 1
        for request in sorted(rows, key=lambda row: row.time, reverse=True):
            if request.model_digest != model_digest:
                other_models += 1
            elif (since is None or request.time >= since) and (
                max_tokens is None or tokens + request.num_tokens <= max_tokens
            ):
                requests.append(request)
                tokens += request.num_tokens
    requests.sort(key=lambda request: request.time)
    return CapturedTraffic(requests=requests, unreadable=unreadable, shards=num_read, other_models=other_models)


def num_tokens(uri: str, *, model_digest: str, max_tokens: int | None = None) -> int:
    """What `read_shards` would have to hold, prompts included, by the shards' footers: no row is read.

    Never less than that, but for shards without the sum in their footer. Raises WorldError as `read_shards` does.
    """
    store, newest_first = _opened(uri)
    tokens = 0
    for shard in newest_first:
        if max_tokens is not None and tokens >= max_tokens:
            return max_tokens
        with suppress(OSError, ValueError):  # reading it says why
            tokens += schema.tokens_in(store.read(shard.name), model_digest=model_digest)
    return tokens if max_tokens is None else min(max_tokens, tokens)


def _opened(uri: str) -> tuple[ShardStore, list[Shard]]:
    """The folder and its shards, the newest first."""
    try:
        store = ShardStore(uri)
        return store, store.shards()[::-1]
    except OSError as error:
        raise WorldError(f"captured traffic at {uri} can't be listed: {error}", reason="CaptureUnreadable") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
