"""What pods say of their drafters, from the control port to the objects that users read: a loop without a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from bowsprit_operator.control_loop import ControlLoop, key_of
from bowsprit_operator.resources import labels
from bowsprit_operator.resources.draft_policy import DraftPolicy, DraftPolicyStatus
from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelSummary, Summaries
from bowsprit_operator.world.engines import Engines
from bowsprit_policy.wire import DrafterState, LoweredDrafter
from loops.fake_engine import FakeEngine
from loops.learning_objects import a_model

HELD = LoweredDrafter(name="ngram", draft_tokens=0, batches=(4, 8), reason="LowAcceptance", message="loses at 4 and 8")


class Stored:
    """The API server, as one model's loop sees it: what is written is what is read."""

    def __init__(self, engine: FakeEngine) -> None:
        self.model = a_model()
        self.policy: DraftPolicy | None = None
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
        stored = {SpeculativeModel: self.model, Pod: self._pod, DraftPolicy: self.policy}.get(type_)
        return [] if stored is None else [stored]

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        self.policy = DraftPolicy.model_validate(manifest)
        return dict(manifest)

    async def apply_status(self, resource: DraftPolicy, status: DraftPolicyStatus, **_: Any) -> None:
        self.policy = resource.model_copy(update={"status": status})


class Looped:
    """A control loop over one pod."""

    def __init__(self, engine: FakeEngine, engines: Engines) -> None:
        stored: Any = Stored(engine)
        self.engine, self.stored, self.summaries, self.now = engine, stored, Summaries(), 1000.0
        self.control = ControlLoop(stored, engines, OperatorSettings(engine_token_file=None), self.summaries)

    async def tick(self) -> None:
        self.engine.run_traffic()
        self.now += 15.0
        await self.control.tick(self.now)

    @property
    def summary(self) -> ModelSummary:
        return self.summaries.of(key_of(self.stored.model))

    @property
    def acknowledged(self) -> tuple[LoweredDrafter, ...]:
        (pod,) = self.stored.policy.status.pods
        return tuple(pod.lowered)


@pytest.fixture
async def looped() -> AsyncIterator[Looped]:
    engines = Engines(token_file=None)
    async with FakeEngine().serving() as engine:
        looped = Looped(engine, engines)
        yield looped
        await looped.control.aclose()
    await engines.aclose()


async def test_what_an_engine_holds_below_the_table_is_in_the_policy_and_in_the_report(looped: Looped) -> None:
    """By drafter and batch, with the engine's reason; gone when the engine restored it."""
    await looped.tick()
    looped.engine.lowered = (HELD,)
    await looped.tick()
    assert (looped.acknowledged, looped.summary.pods[0].lowered) == ((HELD,), (HELD,))
    looped.engine.lowered = ()
    await looped.tick()
    assert (looped.acknowledged, looped.summary.pods[0].lowered) == ((), ())


async def test_the_answer_to_a_push_is_newer_than_the_scrape_before_it(looped: Looped) -> None:
    """What the new table made the engine lower is acknowledged in the same tick."""
    looped.engine.lowered_by_push = (HELD,)
    await looped.tick()
    assert (len(looped.engine.pushes), looped.acknowledged) == (1, (HELD,))


async def test_a_drafter_that_breaks_in_a_pod_is_in_its_report_and_out_of_the_table(looped: Looped) -> None:
    """Whatever its type; the reason is the engine's."""
    await looped.tick()
    broken = looped.engine.service.drafters[0]
    broken.state, broken.reason = DrafterState.BROKEN, "RuntimeError: boom"
    await looped.tick()
    (pod,) = looped.summary.pods
    assert [(drafter.name, drafter.reason) for drafter in pod.drafters if drafter.state is DrafterState.BROKEN] == [
        ("ngram", "RuntimeError: boom")
    ]
    spec = looped.stored.policy.spec
    assert [row.drafters for row in spec.table] == [()]
    assert (spec.reason, looped.summary.decisions[0].reason) == ("DrafterBroken", "DrafterBroken")
    assert spec.message.startswith("ngram is Broken: RuntimeError: boom: ")


async def test_a_loop_that_begins_anew_reports_what_pods_hold_at_once(looped: Looped) -> None:
    """Another leader takes over: the pods say it again."""
    looped.engine.lowered = (HELD,)
    await looped.tick()
    engines = Engines(token_file=None)
    summaries, stored = Summaries(), looped.stored
    loop = ControlLoop(stored, engines, OperatorSettings(engine_token_file=None), summaries)
    await loop.tick(looped.now + 15.0)
    assert summaries.of(key_of(stored.model)).pods[0].lowered == (HELD,)
    await loop.aclose()
    await engines.aclose()
