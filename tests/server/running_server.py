"""A server under test: both of its ports, the engine behind them, and a client of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from bowsprit_engine.server.lifecycle import Lifecycle
from scripted_engine import ScriptedEngine


@dataclass
class RunningServer:
    """Both ports, the engine behind them, and a client of each."""

    engine: ScriptedEngine
    lifecycle: Lifecycle
    client: httpx.AsyncClient
    control: httpx.AsyncClient
    address: tuple[str, int]

    async def chat(self, text: str = "Hi", **fields: Any) -> httpx.Response:
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def complete(self, prompt: object = "Hi", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"model": "scripted", "prompt": prompt, **fields})

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
        """The chunks of a stream, `[DONE]` left out after it was seen."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
        response = await self.client.post(path, json={key: value for key, value in body.items() if value is not None})
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert events.pop() == "[DONE]"
        return [json.loads(event) for event in events]


Serve = Callable[..., Any]
