"""`bowsprit-operator run`: what runs when. Every replica watches and answers health; only the leader acts.

Wires the parts together and knows how they end: SIGTERM stops the work, gives the Lease back, and exits 0; watches or
work that end by themselves exit non-zero, so that Kubernetes starts the process anew.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import typer

from bowsprit_operator.control_loop import ControlLoop
from bowsprit_operator.leadership import act_while_leading
from bowsprit_operator.learning_loop import LearningLoop
from bowsprit_operator.metrics import OperatorMetrics, endpoint
from bowsprit_operator.reconcile import ObjectKey, Reconciler
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import Summaries
from bowsprit_operator.ticker import Ticker
from bowsprit_operator.watch import Watcher
from bowsprit_operator.work_queue import WorkQueue
from bowsprit_operator.world.cluster import Cluster, ClusterError, connect
from bowsprit_operator.world.engines import Engines
from bowsprit_operator.world.events import Events

_STALE_WATCH_FACTOR = 3

_Answer = TypeVar("_Answer")

application = typer.Typer(no_args_is_help=True, add_completion=False, help="The operator of Bowsprit.")
logger = logging.getLogger("bowsprit_operator")


class Operator:
    """One replica. `run` until `stop` is set."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._metrics = OperatorMetrics()
        self._queue: WorkQueue[ObjectKey] = WorkQueue(expected=ClusterError)
        self._watcher = Watcher(cluster.api, settings, self._queue.add)
        self.is_leading = False
        self.health_port: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`; raises when a part of the operator has ended by itself."""
        async with endpoint(
            self._metrics,
            host=self._settings.health_host,
            port=self._settings.health_port,
            watch_ages=self._watcher.ages.ages,
            queue_depth=lambda: self._queue.depth,
            limit_seconds=_STALE_WATCH_FACTOR * self._settings.watch_server_timeout_seconds,
        ) as self.health_port:
            parts = [
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(self._watcher.run(), name="watches"),
                asyncio.create_task(self._lead(), name="leadership"),
            ]
            try:
                ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
            for part in ended:
                part.result()
            if parts[0] not in ended:
                raise RuntimeError(f"the {next(iter(ended)).get_name()} ended by themselves")

    async def _lead(self) -> None:
        await act_while_leading(self._cluster.api, self._settings, self._act, on_change=self._note_leading)

    def _note_leading(self, is_leading: bool) -> None:
        self.is_leading = is_leading
        self._metrics.leader.set(int(is_leading))

    async def _act(self) -> None:
        """A term of leading, from nothing but what is stored."""
        settings, cluster, summaries = self._settings, self._cluster, Summaries()
        events = Events(cluster, instance=settings.identity)
        reconciler = Reconciler(cluster, events, settings, summaries, self._metrics)
        async with AsyncExitStack() as stack:
            engines = Engines(token_file=settings.engine_token_file, timeout_seconds=settings.engine_timeout_seconds)
            stack.push_async_callback(engines.aclose)
            control = ControlLoop(cluster, engines, settings, summaries)
            stack.push_async_callback(control.aclose)
            platform, models = await self._answered(reconciler.platform), await self._answered(self._all_models)
            learning = LearningLoop(cluster, engines, events, settings, summaries, platform)
            ticker = Ticker((control, learning), cluster, summaries, self._metrics, self._queue.add)
            for model in models:
                self._queue.add(ObjectKey(namespace=model.namespace, name=model.name))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.work(reconciler.reconcile, workers=settings.workers), name="reconcile")
                group.create_task(ticker.run(settings.tick_seconds), name="ticker")

    async def _all_models(self) -> tuple[SpeculativeModel, ...]:
        return await self._cluster.read_all(SpeculativeModel)

    async def _answered(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask until the API server answers: an outage at the start of a term is no reason to end the process."""
        while True:
            try:
                return await ask()
            except ClusterError as error:
                logger.warning("the term can't begin yet: %s", error)
                await asyncio.sleep(self._settings.retry_seconds)


async def serve(settings: OperatorSettings, stop: asyncio.Event) -> None:
    """One replica against the API server that the settings name."""
    async with connect(settings.kubeconfig, namespaces=settings.watch_namespaces) as cluster:
        await Operator(cluster, settings).run(stop)


async def _serve_until_signalled(settings: OperatorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


@application.callback()
def _root() -> None:
    """Keeps `run` a subcommand."""


@application.command()
def run() -> None:
    """Watch, and act while leading. Settings are environment variables BOWSPRIT_OPERATOR_*."""
    settings = OperatorSettings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("kopf", "kopf.objects", "httpx", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its one warning is that it leaves the signals to us.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    logger.info("operator %s, engines of %s by default", settings.identity, settings.engine_image)
    asyncio.run(_serve_until_signalled(settings))


def main() -> None:
    """Entry point of `bowsprit-operator`."""
    application()


if __name__ == "__main__":
    main()
