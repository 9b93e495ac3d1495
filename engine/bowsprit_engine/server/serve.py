"""`bowsprit-engine serve`: ports first, then the model, then requests; and at SIGTERM all of it backwards.

Decides the order of a start and of an end. An end loses nothing: new requests get 503 with Retry-After, running ones
finish, what was captured is written, and only then do the ports close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.errors import WorldError
from bowsprit_engine.server import garbage
from bowsprit_engine.server.access import Access, Trust
from bowsprit_engine.server.app import create_app
from bowsprit_engine.server.bridge import Bridge
from bowsprit_engine.server.control import create_control_app
from bowsprit_engine.server.daemon_threads import in_thread
from bowsprit_engine.server.grammars import Grammars
from bowsprit_engine.server.handle import EngineHandle
from bowsprit_engine.server.latencies import Latencies
from bowsprit_engine.server.lifecycle import Lifecycle, Served
from bowsprit_engine.server.listeners import Listener
from bowsprit_engine.server.metrics import EngineCollector
from bowsprit_engine.server.prompts import PromptEncoder

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An engine that is not started yet, and what the server needs to know of its model."""

    engine: EngineHandle
    tokenizer: Any
    capture: Capture
    digest: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: Sequence[int]


async def serve(settings: ServeSettings, load: Callable[[ServeSettings], Loaded] | None = None) -> None:
    """Returns after a drain. Raises EngineError when the model can't be served or the engine ended by itself.

    `load` runs in a thread and makes what is served; without it the settings' model is.
    """
    began = time.monotonic()
    lifecycle = Lifecycle()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    control_app = create_control_app(lifecycle, access=Access(Trust.of(settings)), registry=registry)
    serving_app = create_app(lifecycle, max_body_bytes=settings.max_body_bytes)
    control = Listener(control_app, host=settings.control_host, port=settings.control_port, name="control")
    serving = Listener(serving_app, host=settings.host, port=settings.port, name="serving")
    _watch_signals(lifecycle)
    await control.start()
    await serving.start()
    logger.info("listening: serving %s:%d, control %s:%d", *serving.address, *control.address)
    try:
        loading = asyncio.create_task(_load(settings, registry, load or _load_model))
        await _first_of(loading, lifecycle.drain_asked.wait())
        if not loading.done():
            return
        served = loading.result()
        _watch_engine(lifecycle)
        lifecycle.served = served
        lifecycle.stage = "profiling the model"
        served.engine.start()
        await _until_ready(lifecycle, began)
        await lifecycle.drain_asked.wait()
        await _drain(lifecycle, served, serving, drain_seconds=settings.drain_seconds)
    finally:
        await serving.stop()
        await control.stop()
    if lifecycle.failure is not None:
        raise WorldError(lifecycle.failure, reason="EngineFailure")


async def _load(
    settings: ServeSettings, registry: CollectorRegistry, load: Callable[[ServeSettings], Loaded]
) -> Served:
    began = time.monotonic()
    latencies = Latencies(registry, prefix=settings.metrics_prefix, model_name=settings.served_name)
    loaded = await in_thread(lambda: load(settings))
    grammars = await in_thread(
        lambda: Grammars(loaded.tokenizer, vocab_size=loaded.vocab_size, eos_token_ids=loaded.eos_token_ids)
    )
    EngineCollector(
        loaded.engine, loaded.capture, prefix=settings.metrics_prefix, model_name=settings.served_name
    ).register(registry)
    logger.info(
        "model %s is loaded: digest %s, %d tokens, %.1f s",
        settings.served_name,
        loaded.digest[:12],
        loaded.max_model_len,
        time.monotonic() - began,
    )
    return Served(
        engine=loaded.engine,
        prompts=PromptEncoder(loaded.tokenizer, max_model_len=loaded.max_model_len, tool_format=settings.tool_format),
        grammars=grammars,
        bridge=Bridge(asyncio.get_running_loop()),
        latencies=latencies,
        capture=loaded.capture,
        model_name=settings.served_name,
        model_digest=loaded.digest,
        max_model_len=loaded.max_model_len,
        vocab_size=loaded.vocab_size,
        max_requests=settings.max_batch_size + settings.max_waiting,
        created=int(time.time()),
    )


def _load_model(settings: ServeSettings) -> Loaded:
    from bowsprit_engine.server.assembly import assemble, load  # torch: seconds, and not before the ports answer

    model = load(settings)
    capture = capture_from(settings, model.digest)
    engine = assemble(settings, model, capture.take)
    garbage.leave_out_what_is_here()
    return Loaded(
        engine=engine,
        tokenizer=model.tokenizer,
        capture=capture,
        digest=model.digest,
        max_model_len=model.config.max_model_len,
        vocab_size=model.config.vocab_size,
        eos_token_ids=model.config.eos_token_ids,
    )


def capture_from(settings: ServeSettings, model_digest: str) -> Capture:
    """The capture that the settings ask for; nothing is kept without a URI or with consent `none`."""
    if settings.capture_uri is None or settings.capture_consent == "none":
        return Capture(None, consent="none")
    from bowsprit_engine.capture.writer import ShardWriter, WriterSettings

    writer = ShardWriter(
        WriterSettings(
            uri=settings.capture_uri,
            pod_uid=settings.pod_uid,
            model_digest=model_digest,
            max_tokens=settings.capture_max_tokens,
            retention_seconds=settings.capture_retention,
            flush_seconds=settings.capture_flush_seconds,
            flush_requests=settings.capture_flush_requests,
        )
    )
    return Capture(
        writer,
        consent=settings.capture_consent,
        sample_rate=settings.capture_sample_rate,
        tenant_key=settings.capture_uri,
    )


async def _until_ready(lifecycle: Lifecycle, began: float) -> None:
    """Returns when requests are served, or when there is no use in waiting."""
    while not lifecycle.drain_asked.is_set():
        if lifecycle.why_not_ready() is None:
            logger.info("ready after %.1f s", time.monotonic() - began)
            return
        await asyncio.sleep(POLL_SECONDS)


async def _first_of(*waits: Awaitable[object], timeout_seconds: float | None = None) -> None:
    """Returns when one of them is done, or after the timeout; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _drain(lifecycle: Lifecycle, served: Served, serving: Listener, *, drain_seconds: float) -> None:
    logger.info("draining: %d requests in flight", lifecycle.num_in_flight)
    await _first_of(lifecycle.is_idle.wait(), lifecycle.has_failure.wait(), timeout_seconds=drain_seconds)
    if lifecycle.num_in_flight:
        logger.warning("%d requests are cut off", lifecycle.num_in_flight)
    await in_thread(served.engine.stop)
    await serving.stop()
    await in_thread(served.capture.close)
    logger.info("drained")


def _watch_signals(lifecycle: Lifecycle) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.begin_drain)


def _watch_engine(lifecycle: Lifecycle) -> None:
    """An engine's thread that dies of an error ends the process: only a restart mends it."""
    loop = asyncio.get_running_loop()
    usual = threading.excepthook

    def fail(arguments: threading.ExceptHookArgs) -> None:
        usual(arguments)
        if arguments.thread is not None and arguments.thread.name == "bowsprit-engine":
            message = f"the engine ended: {arguments.exc_type.__name__}: {arguments.exc_value}"
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lifecycle.fail, message)

    threading.excepthook = fail
