"""The sequences that run or wait: how each begins, what its client is told, and how it ends.

Decides that nobody suffers for another: a request that can't begin, or a client whose callback raises, ends alone.
Refuses to know what a step computes. Runs in the engine's thread; knows no other.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from bowsprit_engine.core import grammar, sampling
from bowsprit_engine.core.commit import Committed, finished_request
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.request import FinishedRequest, FinishReason, Request, StepOutput
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.pool import DrafterPool

logger = logging.getLogger(__name__)


class OpenSequences:
    """Begins, streams and ends them. `on_finished` is told of every one that began, once it has ended."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        pool: DrafterPool,
        counters: Counters,
        on_finished: Callable[[FinishedRequest], None] | None,
    ) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._counters = counters
        self._on_finished = on_finished
        self._sequences: dict[str, LiveSequence] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, request_id: str) -> LiveSequence:
        return self._sequences[request_id]

    def submit(self, request: Request) -> None:
        """Queue a sequence. One that can't begin ends alone, as a second one of the same id does."""
        if request.request_id in self._sequences:
            self._refuse(request, f"request id {request.request_id!r} is in use")
            return
        try:
            sequence = LiveSequence.begin(request)
        except Exception as error:  # its grammar's, say; nobody else's
            logger.exception("request %s can't begin", request.request_id)
            self._refuse(request, f"the request can't begin: {type(error).__name__}: {error}")
            return
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)
        self._counters.add(prompt_tokens=sequence.num_prompt_tokens)

    def stream(self, entry: Committed) -> None:
        """Tell a client what a step gave its sequence, and end a sequence that ended with it or whose client raises."""
        if entry.output.finish_reason is not None:
            if entry.output.finish_reason is FinishReason.ERROR:
                logger.error("request %s ended: %s", entry.sequence.request_id, entry.output.error)
            self._finish(entry.sequence, entry.output)
            return
        self._scheduler.trim(entry.sequence)
        if not _tell(entry.sequence.request, entry.output):
            self._end(entry.sequence, FinishReason.ABORT)

    def cancel(self, request_id: str) -> None:
        """End a sequence and free its blocks now. Unknown or finished ones are ignored: both sides may be first."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence, FinishReason.ABORT)

    def fail_running(self, error: str) -> None:
        """A step raised: its sequences' KV can't be trusted. Those that wait are not affected."""
        for sequence in self._scheduler.running:
            self._end(sequence, FinishReason.ERROR, error=error)

    def abort_all(self) -> None:
        for sequence in tuple(self._sequences.values()):
            self._end(sequence, FinishReason.ABORT)

    def _end(self, sequence: LiveSequence, reason: FinishReason, *, error: str | None = None) -> None:
        """Outside a step's own commits."""
        output = StepOutput(request_id=sequence.request_id, token_ids=(), finish_reason=reason, error=error)
        self._finish(sequence, output)

    def _finish(self, sequence: LiveSequence, output: StepOutput) -> None:
        reason = output.finish_reason
        if reason is None:
            raise ValueError(f"request {sequence.request_id} ends without a reason")
        if reason is FinishReason.ERROR and output.error_code != grammar.FAILED:
            self._scheduler.distrust(sequence)
        self._scheduler.remove(sequence)
        self._sequences.pop(sequence.request_id, None)
        self._counters.add_watched(self._pool.forget(sequence))
        self._counters.add_finished(reason.value)
        self._counters.add(
            errors=int(reason is FinishReason.ERROR),
            corrupted_requests=int(output.error_code == sampling.NOT_FINITE.code),
        )
        _tell(sequence.request, dataclasses.replace(output, metrics=sequence.metrics()))
        if self._on_finished is not None:
            try:
                self._on_finished(finished_request(sequence, reason))
            except Exception:
                logger.exception("on_finished raised for request %s", sequence.request_id)

    def _refuse(self, request: Request, error: str) -> None:
        self._counters.add(errors=1)
        reason = FinishReason.ERROR
        _tell(request, StepOutput(request_id=request.request_id, token_ids=(), finish_reason=reason, error=error))


def _tell(request: Request, output: StepOutput) -> bool:
    """Whether the client's callback took it. One that raises loses its request, not the engine."""
    try:
        request.on_output(output)
    except Exception:
        logger.exception("on_output raised for request %s", request.request_id)
        return False
    return True
