"""The world that the loops' tests arrange: models, pods and Jobs on a real API server, engines on loopback.

The kubelet is played here: a pod's status says what a test wants, everything else is Kubernetes' own doing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kubernetes.aio import client

from bowsprit_operator.control_loop import ControlLoop, key_of
from bowsprit_operator.learning_loop import LearningLoop
from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.base import ResourceT
from bowsprit_operator.resources.draft_policy import DraftPolicy
from bowsprit_operator.resources.kinds import SPECULATIVE_MODEL
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelSummary, Summaries
from bowsprit_operator.world.cluster import Cluster
from bowsprit_operator.world.engines import Engines
from bowsprit_operator.world.events import Events
from loops.fake_engine import FakeEngine

WAIT_SECONDS = 20.0
_pod_numbers = itertools.count(1)

MODEL_SPEC: dict[str, Any] = {
    "model": {"uri": "pvc://models/smollm2.gguf", "servedName": "smollm2"},
    "speculation": {"drafters": [{"name": "ngram", "type": "NGram"}, {"name": "head", "type": "Head"}]},
    "training": {"drafter": "head", "trigger": {"minTokens": "1k"}, "budget": {"deadline": "10m"}},
    "promotion": {"shadow": "0s"},  # tests that are about that stage ask for it
    "storage": {"claimName": "learning"},
}


@dataclass(slots=True, kw_only=True)
class World:
    """`now` is the loops' clock, a tick later each time. `operator` may be replaced: that is a new leader."""

    cluster: Cluster
    core: client.CoreV1Api
    namespace: str
    now: float = field(default_factory=time.time)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    summaries: Summaries = field(default_factory=Summaries)
    control: ControlLoop = field(init=False)
    learning: LearningLoop = field(init=False)

    async def __aenter__(self) -> World:
        await self.stack.__aenter__()
        self.new_leader()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for model in await self.cluster.read_all(SpeculativeModel, self.namespace):
            await self.cluster.delete(SPECULATIVE_MODEL, self.namespace, model.name)
        await self.stack.aclose()

    def new_leader(self) -> None:
        """Another replica takes over: it has nothing in memory."""
        settings = OperatorSettings(engine_token_file=None, engine_timeout_seconds=0.3)
        engines = Engines(token_file=None, timeout_seconds=settings.engine_timeout_seconds)
        platform = Platform(
            engine_image="localhost/bowsprit-engine:dev",
            operator_namespace="bowsprit-system",
            subject=settings.engine_subject,
            issuer="https://issuer",
            jwks="{}",
        )
        self.summaries = Summaries()
        self.control = ControlLoop(self.cluster, engines, settings, self.summaries)
        events = Events(self.cluster, instance="test")
        self.learning = LearningLoop(self.cluster, engines, events, settings, self.summaries, platform)
        self.stack.push_async_callback(engines.aclose)
        self.stack.push_async_callback(self.control.aclose)

    async def model(self, name: str = "smollm2", **spec: Any) -> SpeculativeModel:
        manifest = {"metadata": {"name": name, "namespace": self.namespace}, "spec": MODEL_SPEC | spec}
        return SpeculativeModel.model_validate(
            await self.cluster.apply(SPECULATIVE_MODEL, manifest, manager="the-user")
        )

    async def engine(self, model_name: str = "smollm2", engine: FakeEngine | None = None) -> FakeEngine:
        """A Ready engine pod whose address leads to a fake."""
        engine = await self.stack.enter_async_context((engine or FakeEngine()).serving())
        name = f"{model_name}-{next(_pod_numbers)}"
        pod_labels = labels.on_child(model_name)
        await self.core.create_namespaced_pod(
            self.namespace,
            {
                "metadata": {"name": name, "labels": pod_labels},
                "spec": {
                    "serviceAccountName": "fake",
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "engine", "image": "localhost/none"}],
                },
            },
        )
        await self.pod_says(name, phase="Running", ready=True, ip=engine.ip)
        return engine

    async def pod_says(
        self, name: str, *, phase: str, ready: bool, ip: str | None = None, terminated: dict[str, Any] | None = None
    ) -> None:
        """What the kubelet would write."""
        status: dict[str, Any] = {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        if ip is not None:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        if terminated is not None:
            state = {"terminated": terminated}
            container = {"name": "train", "ready": False, "restartCount": 0, "image": "i", "imageID": "i"}
            status["containerStatuses"] = [container | {"state": state}]
        await self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    async def pods_of_job(self, job_name: str) -> Sequence[Any]:
        found = await self.core.list_namespaced_pod(self.namespace, label_selector=f"job-name={job_name}")
        return list(found.items)

    async def tick(self, times: int = 1, *, engines: Sequence[FakeEngine] = ()) -> None:
        """Traffic on each engine, then both loops, as often as asked; 15 s of the loops' clock per tick."""
        for _ in range(times):
            for engine in engines:
                engine.run_traffic()
            self.now += 15.0
            await self.control.tick(self.now)
            await self.learning.tick(self.now)

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Tick until the condition holds. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not await condition():
                await self.tick()

    async def policy(self, name: str = "smollm2") -> DraftPolicy:
        return await self._read(DraftPolicy, names.draft_policy(name))

    async def training(self, name: str) -> SpeculatorTraining:
        return await self._read(SpeculatorTraining, name)

    async def revision(self, name: str) -> SpeculatorRevision:
        return await self._read(SpeculatorRevision, name)

    async def trainings(self) -> list[str]:
        return sorted(training.name for training in await self.cluster.read_all(SpeculatorTraining, self.namespace))

    def summary(self, model: SpeculativeModel) -> ModelSummary:
        return self.summaries.of(key_of(model))

    async def _read(self, type_: type[ResourceT], name: str) -> ResourceT:
        found = await self.cluster.read(type_, self.namespace, name)
        assert found is not None, f"{type_.KIND.kind} {name} does not exist"
        return found
