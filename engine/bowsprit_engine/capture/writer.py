"""The capture of one pod: finished requests go in from the engine's thread, shards come out of the writer's own.

Decides budget, retention and when a shard is due. Never blocks serving: what can't be kept is counted by reason, and
the first failure of a kind is logged.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from bowsprit_engine.capture import consent, shard
from bowsprit_engine.capture.shard import CapturedRequest
from bowsprit_engine.core.request import FinishedRequest, FinishReason
from bowsprit_policy.wire import CaptureStats

logger = logging.getLogger(__name__)

QUEUE_REQUESTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """`max_tokens` is what this pod keeps on the volume at most; the oldest of its shards make room."""

    folder: Path
    pod_uid: str
    model_digest: str
    sample_rate: float
    max_tokens: int
    retention_seconds: float
    flush_seconds: float = 10.0
    flush_requests: int = 64


class CaptureWriter:
    """`offer` from any thread, `close` once. Not started: use `start`."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._settings = settings
        self._queue: queue.Queue[CapturedRequest | None] = queue.Queue(QUEUE_REQUESTS)
        self._lock = threading.Lock()
        self._dropped: Counter[str] = Counter()
        self._requests = self._tokens = self._response_tokens = self._shards = 0
        self._kept: list[tuple[Path, int]] = []  # this pod's shards on the volume with their tokens, oldest first
        self._sequence = 0
        self._thread = threading.Thread(target=self._run, name="bowsprit-capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what is buffered and end."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)

    def offer(self, request: FinishedRequest) -> None:
        """Keep a finished request if it may be kept. Returns at once, whatever the volume does."""
        reason = self._refusal(request)
        if reason is None:
            try:
                self._queue.put_nowait(self._captured(request))
            except queue.Full:
                reason = "QueueFull"
        if reason is not None:
            self._drop(reason, 1)

    def stats(self) -> CaptureStats:
        with self._lock:
            return CaptureStats(
                enabled=True,
                requests=self._requests,
                tokens=self._tokens,
                response_tokens=self._response_tokens,
                shards=self._shards,
                dropped=dict(self._dropped),
            )

    def _refusal(self, request: FinishedRequest) -> str | None:
        if not request.capture_allowed:
            return "NoConsent"
        if request.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return "Unfinished"
        if not request.response_token_ids:
            return "Empty"
        if not consent.is_sampled(request.request_id, self._settings.sample_rate):
            return "NotSampled"
        return None

    def _captured(self, request: FinishedRequest) -> CapturedRequest:
        return CapturedRequest(
            time=datetime.now(UTC),
            model_digest=self._settings.model_digest,
            tenant=request.tenant,
            prompt_token_ids=request.prompt_token_ids,
            response_token_ids=request.response_token_ids,
            accepted_counts=request.accepted_counts,
            drafter_names=request.drafter_names,
            finish_reason=request.finish_reason.value,
            temperature=request.temperature,
        )

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._collect()
            if batch:
                self._write(batch)
            self._expire()

    def _collect(self) -> tuple[list[CapturedRequest], bool]:
        """A shard's worth of requests: full, or old enough, or the last one (then False)."""
        batch: list[CapturedRequest] = []
        deadline = time.monotonic() + self._settings.flush_seconds
        while len(batch) < self._settings.flush_requests:
            try:
                request = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                return batch, False
            batch.append(request)
        return batch, True

    def _write(self, batch: list[CapturedRequest]) -> None:
        num_tokens = sum(request.num_tokens for request in batch)
        path = self._settings.folder / f"{self._settings.pod_uid}-{self._sequence:06d}{shard.SUFFIX}"
        self._sequence += 1
        if num_tokens > self._settings.max_tokens:
            self._drop("OverBudget", len(batch))
            return
        try:
            self._settings.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(num_tokens)
            shard.write(path, batch)
        except (OSError, pa.ArrowException) as error:
            self._drop("WriteFailed", len(batch), cause=f"{path}: {error}")
            return
        self._kept.append((path, num_tokens))
        with self._lock:
            self._requests += len(batch)
            self._tokens += num_tokens
            self._response_tokens += sum(len(request.response_token_ids) for request in batch)
            self._shards += 1

    def _make_room(self, num_tokens: int) -> None:
        while self._kept and sum(tokens for _, tokens in self._kept) + num_tokens > self._settings.max_tokens:
            oldest, _ = self._kept.pop(0)
            oldest.unlink(missing_ok=True)

    def _expire(self) -> None:
        """Delete shards of any pod older than the retention: a pod that is gone can't delete its own."""
        oldest_seconds = time.time() - self._settings.retention_seconds
        try:
            for path in self._settings.folder.glob(f"*{shard.SUFFIX}"):
                if path.stat().st_mtime < oldest_seconds:
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._drop("ExpiryFailed", 0, cause=str(error))
        self._kept = [(path, tokens) for path, tokens in self._kept if path.exists()]

    def _drop(self, reason: str, count: int, *, cause: str | None = None) -> None:
        with self._lock:
            is_first = reason not in self._dropped
            self._dropped[reason] += count
        if is_first and cause is not None:
            logger.error("capture leaves requests out (%s): %s", reason, cause)
