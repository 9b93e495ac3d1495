"""The thread that writes shards: every few seconds or requests, and when the pod drains. Serving never waits for it.

Decides when a shard is written and which old ones go (age, then the token budget, oldest first, whoever wrote them).
A place that can't be written costs the buffered requests, which are counted, and nothing else.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bowsprit_engine.capture import schema
from bowsprit_engine.capture.schema import CapturedRequest
from bowsprit_engine.capture.store import Shard, ShardStore
from bowsprit_engine.core.request import FinishedRequest
from bowsprit_engine.errors import ModelError
from bowsprit_policy.wire import CaptureStats

logger = logging.getLogger(__name__)

MAX_QUEUED = 1024  # requests between the engine and the writer


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """Where to, and how much. `max_tokens` and `retention_seconds` are of the whole folder."""

    uri: str
    pod_uid: str
    model_digest: str
    max_tokens: int
    retention_seconds: float
    flush_seconds: float = 10.0
    flush_requests: int = 64
    close_seconds: float = 8.0


@dataclass(slots=True, kw_only=True)
class _Counts:
    requests: int = 0
    response_tokens: int = 0
    shards: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: {"Kept": 0})
    dropped: dict[str, int] = field(default_factory=dict)


class ShardWriter:
    """Starts its thread when built; `close` writes what is left."""

    def __init__(self, settings: WriterSettings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._queue: queue.Queue[CapturedRequest | None] = queue.Queue(MAX_QUEUED)
        self._counts = _Counts()
        self._lock = threading.Lock()
        self._is_failing = False
        self._store: ShardStore | None = None
        self._sequence: int | None = None
        self._tokens_of: dict[str, int] = {}  # of shards seen: they never change
        self._thread = threading.Thread(target=self._run, name="bowsprit-capture", daemon=True)
        self._thread.start()

    def offer(self, finished: FinishedRequest) -> None:
        """Queue a request; a full queue drops it."""
        request = CapturedRequest(
            time=self._now(),
            model_digest=self._settings.model_digest,
            tenant=finished.tenant,
            prompt_token_ids=finished.prompt_token_ids,
            response_token_ids=finished.response_token_ids,
            accepted_counts=finished.accepted_counts,
            drafter_names=finished.drafter_names,
            finish_reason=finished.finish_reason.value,
            temperature=finished.temperature,
        )
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self.drop("QueueFull", tokens=request.num_tokens)

    def drop(self, reason: str, *, tokens: int, requests: int = 1) -> None:
        with self._lock:
            self._counts.dropped[reason] = self._counts.dropped.get(reason, 0) + requests
            self._counts.tokens[reason] = self._counts.tokens.get(reason, 0) + tokens

    def stats(self) -> CaptureStats:
        with self._lock:
            return CaptureStats(
                enabled=True,
                requests=self._counts.requests,
                tokens=self._counts.tokens["Kept"],
                response_tokens=self._counts.response_tokens,
                shards=self._counts.shards,
                dropped=dict(self._counts.dropped),
            )

    def tokens_by_outcome(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts.tokens)

    def close(self) -> None:
        """Write what is buffered; gives up on a place that hangs."""
        if not self._thread.is_alive():
            return
        deadline = time.monotonic() + self._settings.close_seconds
        try:
            self._queue.put(None, timeout=self._settings.close_seconds)
        except queue.Full:
            logger.warning("captured traffic is lost: writing to %s takes too long", self._settings.uri)
        else:
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        buffer: list[CapturedRequest] = []
        deadline = time.monotonic() + self._settings.flush_seconds
        is_open = True
        while is_open:
            try:
                request = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                request = None
            else:
                is_open = request is not None
            if request is not None:
                buffer.append(request)
            is_due = time.monotonic() >= deadline or not is_open
            if is_due or len(buffer) >= self._settings.flush_requests:
                self._flush(buffer)
                buffer = []
                deadline = time.monotonic() + self._settings.flush_seconds

    def _flush(self, buffer: list[CapturedRequest]) -> None:
        """Write, then make room. Whatever the world does here, the thread goes on."""
        try:
            if buffer:
                self._write(buffer)
                buffer = []
            self._make_room()
        except (OSError, ValueError, ModelError) as error:
            if not self._is_failing:
                logger.warning("captured traffic can't be written to %s: %s", self._settings.uri, error)
            self._is_failing = True
            if buffer:
                self.drop("Unwritable", tokens=sum(r.num_tokens for r in buffer), requests=len(buffer))
        else:
            if self._is_failing:
                logger.info("captured traffic is written to %s again", self._settings.uri)
            self._is_failing = False

    def _write(self, buffer: list[CapturedRequest]) -> None:
        store = self._opened()
        if self._sequence is None:
            self._sequence = self._next_sequence(store.shards())
        name = f"{self._settings.pod_uid}-{self._sequence:06d}{schema.SUFFIX}"
        store.put(name, schema.encode(buffer))
        self._sequence += 1
        tokens = sum(request.num_tokens for request in buffer)
        self._tokens_of[name] = tokens
        with self._lock:
            self._counts.requests += len(buffer)
            self._counts.response_tokens += sum(len(request.response_token_ids) for request in buffer)
            self._counts.shards += 1
            self._counts.tokens["Kept"] += tokens

    def _next_sequence(self, shards: list[Shard]) -> int:
        """After a restart of the container the pod's uid is the same: never write over its earlier shards."""
        own = re.compile(rf"{re.escape(self._settings.pod_uid)}-(\d+){re.escape(schema.SUFFIX)}")
        return 1 + max((int(match[1]) for shard in shards if (match := own.fullmatch(shard.name))), default=-1)

    def _make_room(self) -> None:
        store = self._opened()
        oldest = self._now().timestamp() - self._settings.retention_seconds
        shards = store.shards()
        tokens = {shard.name: self._tokens(store, shard) for shard in shards}
        total = sum(tokens.values())
        for shard in shards:
            if shard.time.timestamp() >= oldest and total <= self._settings.max_tokens:
                break
            store.delete(shard.name)
            total -= tokens[shard.name]
        self._tokens_of = {name: count for name, count in tokens.items() if name in self._tokens_of}

    def _tokens(self, store: ShardStore, shard: Shard) -> int:
        """Tokens of a shard, read once. An unreadable one counts as none, and goes by its age."""
        if shard.name not in self._tokens_of:
            try:
                self._tokens_of[shard.name] = schema.tokens_in(store.read(shard.name))
            except (FileNotFoundError, ValueError):
                return 0
        return self._tokens_of[shard.name]

    def _opened(self) -> ShardStore:
        if self._store is None:
            self._store = ShardStore(self._settings.uri, is_writable=True)
        return self._store
