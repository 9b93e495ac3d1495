"""The operator's own metrics and its health endpoint: /metrics, /healthz and /readyz on one port.

Decides when the process is unhealthy: a kind's watch wasn't opened anew for three times as long as a watch may last.
A follower is as healthy as the leader. Refuses to know how watches and queues work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition


class OperatorMetrics:
    """All metrics of one operator process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "bowsprit_reconcile_duration_seconds", "Duration of one pass over one model.", registry=self.registry
        )
        self.reconciles = Counter(
            "bowsprit_reconcile",
            "Passes by result: unchanged, applied, blocked, gone, error.",
            ["result"],
            registry=self.registry,
        )
        self.queue_depth = Gauge("bowsprit_workqueue_depth", "Models waiting for a pass.", registry=self.registry)
        self.decisions = Counter(
            "bowsprit_decisions", "Decisions, as they reached a status.", ["kind", "reason"], registry=self.registry
        )
        self.leader = Gauge("bowsprit_leader", "1 while this replica leads.", registry=self.registry)
        self.watch_age = Gauge(
            "bowsprit_watch_age_seconds", "Since the watch of a kind was opened.", ["kind"], registry=self.registry
        )
        self.scrape_failures = Counter(
            "bowsprit_engine_scrape_failures",
            "Engine pods that gave no stats in a tick.",
            ["reason"],
            registry=self.registry,
        )


def unhealthy_because(watch_ages: Mapping[str, float], *, limit_seconds: float) -> str | None:
    """The reason to restart this process, None when it is healthy. `watch_ages`: seconds by kind."""
    stale = {kind: age for kind, age in watch_ages.items() if age > limit_seconds}
    if not stale:
        return None
    listed = ", ".join(f"{kind} {age:.0f} s" for kind, age in sorted(stale.items()))
    return f"watches older than {limit_seconds:.0f} s: {listed}"


@asynccontextmanager
async def endpoint(
    metrics: OperatorMetrics,
    *,
    host: str,
    port: int,
    watch_ages: Callable[[], Mapping[str, float]],
    queue_depth: Callable[[], int],
    limit_seconds: float,
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port that was taken."""

    async def health(_request: web.Request) -> web.Response:
        cause = unhealthy_because(watch_ages(), limit_seconds=limit_seconds)
        return web.Response(text=cause or "ok", status=503 if cause else 200)

    async def expose(_request: web.Request) -> web.Response:
        metrics.queue_depth.set(queue_depth())
        for kind, age in watch_ages().items():
            metrics.watch_age.labels(kind=kind).set(age)
        body = exposition.generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", health), web.get("/readyz", health), web.get("/metrics", expose)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
