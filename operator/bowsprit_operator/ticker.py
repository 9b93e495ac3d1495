"""The clock of the two loops: tick the control loop, then the learning loop, every so many seconds, while leading.

Decides that a tick which can't read the cluster is skipped and that models whose summary changed are looked at.
Refuses to know what the loops decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from bowsprit_operator.metrics import OperatorMetrics
from bowsprit_operator.reconcile import ObjectKey
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving import figures
from bowsprit_operator.summaries import ModelKey, ModelSummary, Summaries
from bowsprit_operator.world.cluster import Cluster, ClusterError

logger = logging.getLogger(__name__)


class Loop(Protocol):
    """The control loop, the learning loop."""

    async def tick(self, now: float) -> None: ...


class Ticker:
    """Forgets what it saw when a new term of leading begins (make a new one)."""

    def __init__(
        self,
        loops: Sequence[Loop],
        cluster: Cluster,
        summaries: Summaries,
        metrics: OperatorMetrics,
        on_key: Callable[[ObjectKey], None],
    ) -> None:
        self._loops = loops
        self._cluster = cluster
        self._summaries = summaries
        self._metrics = metrics
        self._on_key = on_key
        self._shown: dict[ModelKey, object] = {}

    async def run(self, seconds: float) -> None:
        """Until cancelled. A tick that takes longer than `seconds` is followed by the next at once."""
        while True:
            started = time.monotonic()
            await self.tick(time.time())
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - started)))

    async def tick(self, now: float) -> None:
        """Every loop once, in order, each for itself."""
        for loop in self._loops:
            try:
                await loop.tick(now)
            except ClusterError as error:
                logger.warning("%s skipped a tick: %s", type(loop).__name__, error)
        try:
            models = await self._cluster.read_all(SpeculativeModel)
        except ClusterError as error:
            logger.warning("statuses wait for the next tick: %s", error)
            return
        for model in models:
            self._look_at(ModelKey(namespace=model.namespace, name=model.name, uid=model.metadata.uid or ""))

    def _look_at(self, key: ModelKey) -> None:
        summary = self._summaries.of(key)
        for pod in summary.pods:
            if pod.failure is not None:
                self._metrics.scrape_failures.labels(reason=pod.failure).inc()
        shown = _what_status_shows(summary)
        if self._shown.get(key) != shown:
            self._shown[key] = shown
            self._on_key(ObjectKey(namespace=key.namespace, name=key.name))


def _what_status_shows(summary: ModelSummary) -> object:
    """Equal for two summaries that would give the same status."""
    return (
        None if summary.speculation is None else figures.of_summary(summary.speculation),
        summary.decisions,
        summary.learning_reason,
        summary.model_digest,
        tuple((pod.uid, pod.failure, tuple((d.name, d.state) for d in pod.drafters)) for pod in summary.pods),
        tuple((lowered.name, lowered.batches) for pod in summary.pods for lowered in pod.lowered),
    )
