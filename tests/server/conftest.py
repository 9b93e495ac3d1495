"""A server over real sockets on loopback, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.server.access import Access, Trust
from bowsprit_engine.server.app import create_app
from bowsprit_engine.server.bridge import Bridge
from bowsprit_engine.server.control import create_control_app
from bowsprit_engine.server.grammars import Grammars
from bowsprit_engine.server.latencies import Latencies
from bowsprit_engine.server.lifecycle import Lifecycle, Served
from bowsprit_engine.server.listeners import Listener
from bowsprit_engine.server.metrics import EngineCollector
from bowsprit_engine.server.prompts import PromptEncoder
from scripted_engine import END, MAX_MODEL_LEN, VOCAB_SIZE, ScriptedEngine, byte_tokenizer
from server.running_server import RunningServer, Serve


class _Impatient:
    """asyncio, as uvicorn sees it here: it looks every tenth of a second whether to end, and rests as long at its end.

    For a server per test that is half of the time of these tests.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


@pytest.fixture(autouse=True)
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.server.asyncio", _Impatient())


@pytest.fixture
async def serve(ends_at_once: None) -> AsyncIterator[Serve]:
    """Start servers that end with the test."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: ScriptedEngine | None = None,
            *,
            is_loaded: bool = True,
            capture: Capture | None = None,
            trust: Trust | None = None,
            template: str | None = None,
            metrics_prefix: str = "bowsprit",
            max_body_bytes: int = 1 << 20,
            tool_format: str = "auto",
            max_model_len: int = MAX_MODEL_LEN,
            max_requests: int = 264,
        ) -> RunningServer:
            engine = engine or ScriptedEngine()
            capture = capture or Capture(None)
            registry, lifecycle = CollectorRegistry(), Lifecycle()
            latencies = Latencies(registry, prefix=metrics_prefix, model_name="scripted")
            EngineCollector(engine, capture, prefix=metrics_prefix, model_name="scripted").register(registry)
            if is_loaded:
                engine.start()
                stack.callback(engine.stop)
                tokenizer = byte_tokenizer() if template is None else byte_tokenizer(template)
                lifecycle.served = Served(
                    engine=engine,
                    prompts=PromptEncoder(tokenizer, max_model_len=max_model_len, tool_format=tool_format),
                    grammars=Grammars(tokenizer, vocab_size=VOCAB_SIZE, eos_token_ids=[END]),
                    bridge=Bridge(asyncio.get_running_loop()),
                    latencies=latencies,
                    capture=capture,
                    model_name="scripted",
                    model_digest="d" * 64,
                    max_model_len=max_model_len,
                    vocab_size=VOCAB_SIZE,
                    max_requests=max_requests,
                    created=0,
                )
            apps = (
                create_app(lifecycle, max_body_bytes=max_body_bytes),
                create_control_app(lifecycle, access=Access(trust), registry=registry),
            )
            listeners = [Listener(app, host="127.0.0.1", port=0, name="test") for app in apps]
            clients = []

            async def stop() -> None:
                await asyncio.gather(*(listener.stop() for listener in listeners))

            stack.push_async_callback(stop)
            for listener in listeners:
                await listener.start()
                url = f"http://127.0.0.1:{listener.port}"
                clients.append(
                    await stack.enter_async_context(
                        httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60)
                    )
                )
            return RunningServer(
                engine=engine,
                lifecycle=lifecycle,
                client=clients[0],
                control=clients[1],
                address=listeners[0].address,
            )

        yield start
