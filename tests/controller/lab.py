"""What controller tests do with a real API server: apply, look, wait until something is so, and run operators."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

from bowsprit_operator.__main__ import Operator
from bowsprit_operator.resources.conditions import find
from bowsprit_operator.resources.kinds import LEASE, Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.world.cluster import Cluster

_Value = TypeVar("_Value")

PATIENCE_SECONDS = 30.0
REVISION = {  # the spec of one that the API server takes
    "modelName": "m",
    "drafter": "head",
    "number": 1,
    "modelDigest": "d" * 64,
    "artifact": {"uri": "file:///s", "sha256": "0" * 64, "bytes": 1},
}


async def until(look: Callable[[], Awaitable[_Value]], is_so: Callable[[_Value], bool]) -> _Value:
    """The first value for which `is_so`; fails with the last one seen when that never comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = await look()
        if is_so(value):
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {PATIENCE_SECONDS:.0f} s: {value}")
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One namespace of one test. `user` writes as a user would, with a field manager of its own."""

    cluster: Cluster
    namespace: str
    kubeconfig: Path

    async def apply(self, name: str, **spec: Any) -> None:
        """A user applies a SpeculativeModel that serves a file unless `spec` says otherwise."""
        manifest = {
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"team": "a"}},
            "spec": {"model": {"uri": "file:///models/m.gguf"}, **spec},
        }
        await self.cluster.apply(SpeculativeModel.KIND, manifest, manager="user")

    async def edit(self, kind: Kind, name: str, **parts: Any) -> None:
        """A user takes fields of any object over."""
        await self.cluster.apply(
            kind, {"metadata": {"name": name, "namespace": self.namespace}, **parts}, manager="user"
        )

    async def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        return await self.cluster.get(kind, self.namespace, name)

    async def exists(self, kind: Kind, name: str) -> dict[str, Any]:
        """The object, as soon as it is there."""
        found = await until(lambda: self.get(kind, name), lambda stored: stored is not None)
        assert found is not None
        return found

    async def model(self, name: str) -> SpeculativeModel:
        found = await self.cluster.read(SpeculativeModel, self.namespace, name)
        assert found is not None
        return found

    async def condition(self, name: str, type_: str, *, reason: str) -> tuple[str, str]:
        """Status and message of a condition, as soon as it has that reason."""

        def has_reason(model: SpeculativeModel) -> bool:
            condition = find(model.status.conditions, type_)
            return condition is not None and condition.reason == reason

        model = await until(lambda: self.model(name), has_reason)
        condition = find(model.status.conditions, type_)
        assert condition is not None
        return condition.status.value, condition.message

    async def leader(self) -> str | None:
        """Who holds the Lease of this namespace's operators."""
        lease = await self.get(LEASE, "bowsprit-operator")
        holder = (lease or {}).get("spec", {}).get("holderIdentity")
        return str(holder) if holder else None

    def settings(self, **values: Any) -> OperatorSettings:
        """Of an operator that watches this namespace only, and keeps its Lease there."""
        plain: dict[str, Any] = {
            "kubeconfig": self.kubeconfig,
            "namespace": self.namespace,
            "watch_namespaces": (self.namespace,),
            "identity": "one",
            "engine_token_file": None,
            "health_host": "127.0.0.1",
            "health_port": 0,
            "tick_seconds": 1.0,
            "lease_seconds": 6,
            "renew_seconds": 4,
            "retry_seconds": 1,
        }
        return OperatorSettings(**(plain | values))

    @asynccontextmanager
    async def operator(self, **values: Any) -> AsyncIterator[Operator]:
        """One replica in this process; an end by itself fails the test."""
        stop = asyncio.Event()
        scope = Cluster(self.cluster.api, namespaces=(self.namespace,))
        operator = Operator(scope, self.settings(**values))
        async with asyncio.TaskGroup() as group:
            group.create_task(operator.run(stop))
            try:
                yield operator
            finally:
                stop.set()

    @asynccontextmanager
    async def process(self, identity: str, **values: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """One replica as a process of its own, which may be killed."""
        settings = self.settings(identity=identity, **values).model_dump(mode="json", exclude_none=True)
        environment = {
            f"BOWSPRIT_OPERATOR_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in settings.items()
        }
        environment["BOWSPRIT_OPERATOR_ENGINE_TOKEN_FILE"] = "/nonexistent"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bowsprit_operator", "run", env=os.environ | environment
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def answers(port: int) -> bool:
    """Whether a replica that is a process has come up, leading or not."""
    try:
        return await get(port, "/healthz") == (200, "ok")
    except aiohttp.ClientError:
        return False


async def get(port: int | None, path: str) -> tuple[int, str]:
    """Status and text that an operator's health port answers with."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


def sample(name: str) -> dict[str, Any]:
    """One of manifests/samples."""
    path = Path(__file__).parents[2] / "manifests" / "samples" / f"{name}.yaml"
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    return manifest
