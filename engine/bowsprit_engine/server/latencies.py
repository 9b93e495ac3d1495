"""How long requests wait and stream, as histograms of metrics. Times are of the server's clock, not the network's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram

from bowsprit_engine.core.request import FinishReason

_FIRST_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3, 1.0)
_WHOLE_BUCKETS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0)


class Latencies:
    """The histograms; `clock` measures one choice."""

    def __init__(
        self, registry: CollectorRegistry, *, prefix: str, model_name: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        labels = {"model_name": model_name, "engine": "0"}

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(f"{prefix}:{name}", text, tuple(labels), registry=registry, buckets=buckets)
            return family.labels(**labels)

        self.first = histogram("time_to_first_token_seconds", "Arrival to first token.", _FIRST_BUCKETS)
        self.between = histogram("inter_token_latency_seconds", "Between tokens of a sequence.", _BETWEEN_BUCKETS)
        self.whole = histogram("e2e_request_latency_seconds", "Arrival to last token.", _WHOLE_BUCKETS)
        finished = Counter(
            f"{prefix}:request_success_total",
            "Finished requests, by reason.",
            (*labels, "finished_reason"),
            registry=registry,
        )
        self.finished = {reason: finished.labels(**labels, finished_reason=reason.value) for reason in FinishReason}

    def clock(self, arrival: float) -> RequestClock:
        """A clock for a choice that arrived at `arrival` of `now`."""
        return RequestClock(latencies=self, arrival=arrival)


@dataclass(slots=True, kw_only=True)
class RequestClock:
    """Times of one choice. Tokens of one step share the time since the step before."""

    latencies: Latencies
    arrival: float
    _last: float | None = field(default=None)

    def tokens(self, count: int) -> None:
        if count == 0:
            return
        now = self.latencies.now()
        if self._last is None:
            self.latencies.first.observe(now - self.arrival)
        else:
            each = (now - self._last) / count
            for _ in range(count):
                self.latencies.between.observe(each)
        self._last = now

    def finish(self, reason: FinishReason) -> None:
        self.latencies.finished[reason].inc()
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.latencies.whole.observe(self.latencies.now() - self.arrival)
