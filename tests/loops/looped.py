"""A control loop over one fake engine and what it reads and writes, without an API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bowsprit_operator.control_loop import ControlLoop, key_of
from bowsprit_operator.resources import labels
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicy, DraftPolicyStatus
from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelSummary, Summaries
from bowsprit_operator.world.engines import Engines
from bowsprit_policy.wire import LoweredDrafter
from loops.fake_engine import FakeEngine
from loops.learning_objects import a_model


class Stored:
    """The API server, as one model's loop sees it: what is written is what is read."""

    def __init__(self, engine: FakeEngine) -> None:
        self.model = a_model()
        self.policy: DraftPolicy | None = None
        self.revisions: list[SpeculatorRevision] = []
        self._pod = Pod.model_validate(
            {
                "metadata": {
                    "name": "m-1",
                    "namespace": self.model.namespace,
                    "uid": "uid-m-1",
                    "labels": labels.on_child(self.model.name),
                },
                "status": {"phase": "Running", "podIP": engine.ip, "conditions": [{"type": "Ready", "status": "True"}]},
            }
        )

    async def read_all(self, type_: type[Any], *_: Any, **__: Any) -> list[Any]:
        if type_ is SpeculatorRevision:
            return self.revisions
        stored = {SpeculativeModel: self.model, Pod: self._pod, DraftPolicy: self.policy}.get(type_)
        return [] if stored is None else [stored]

    def should_serve(self, revision: SpeculatorRevision) -> None:
        """What the learning loop would write of a promoted one."""
        assert self.policy is not None, "the control loop has written no DraftPolicy yet"
        self.revisions.append(revision)
        artifact = revision.spec.artifact
        entry = DesiredSpeculator(
            drafter=revision.spec.drafter, revision=revision.name, uri=artifact.uri, sha256=artifact.sha256
        )
        spec = self.policy.spec.model_copy(update={"speculators": (entry,)})
        self.policy = self.policy.model_copy(update={"spec": spec})

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        applied = DraftPolicy.model_validate(manifest)
        if self.policy is not None:  # the learning loop's fields stay, as in a server-side apply
            kept = {"speculators": self.policy.spec.speculators, "candidates": self.policy.spec.candidates}
            applied = applied.model_copy(update={"spec": applied.spec.model_copy(update=kept)})
        self.policy = applied
        return applied.model_dump(mode="json", by_alias=True)

    async def apply_status(self, resource: DraftPolicy, status: DraftPolicyStatus, **_: Any) -> None:
        self.policy = resource.model_copy(update={"status": status})


class Looped:
    """A control loop over one pod. Loads that a tick begins have ended when the next one does."""

    def __init__(self, engine: FakeEngine, engines: Engines) -> None:
        stored: Any = Stored(engine)
        self.engine, self.stored, self.summaries, self.now = engine, stored, Summaries(), 1000.0
        self.control = ControlLoop(stored, engines, OperatorSettings(engine_token_file=None), self.summaries)

    async def tick(self) -> None:
        self.engine.run_traffic()
        self.now += 15.0
        await self.control.tick(self.now)
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("load ")))

    @property
    def summary(self) -> ModelSummary:
        return self.summaries.of(key_of(self.stored.model))

    @property
    def policy(self) -> DraftPolicy:
        policy: DraftPolicy = self.stored.policy
        return policy

    @property
    def acknowledged(self) -> tuple[LoweredDrafter, ...]:
        (pod,) = self.policy.status.pods
        return tuple(pod.lowered)


@asynccontextmanager
async def looping(engine: FakeEngine) -> AsyncIterator[Looped]:
    engines = Engines(token_file=None)
    async with engine.serving():
        looped = Looped(engine, engines)
        yield looped
        await looped.control.aclose()
    await engines.aclose()
