"""Path 2 on a real API server: from what engines count to a DraftPolicy that every pod has acknowledged."""

from __future__ import annotations

import pytest

from bowsprit_operator.resources.kinds import DRAFT_POLICY
from loops.fake_engine import FakeEngine
from loops.world import World

pytestmark = pytest.mark.apiserver


async def test_every_pod_executes_and_acknowledges_the_table(world: World) -> None:
    """The stored revision, the revision that pods hold and the acknowledged one are the same."""
    await world.model()
    engines = [await world.engine(), await world.engine()]
    await world.tick(2, engines=engines)
    policy = await world.policy()
    held = {engine.revision for engine in engines}
    acknowledged = {pod.revision for pod in policy.status.pods}
    assert (held, acknowledged, len(policy.status.pods)) == ({policy.spec.revision}, {policy.spec.revision}, 2)


async def test_a_change_of_workload_raises_the_revision_with_its_numbers(world: World) -> None:
    """Once drafts stop matching, a shorter table is written, and its reason names figures."""
    model = await world.model()
    engine = await world.engine()
    await world.tick(8, engines=[engine])
    before = await world.policy()
    engine.service.drafters[0].matches = (0.02,) * 32
    await world.tick(20, engines=[engine])
    after = await world.policy()
    assert after.spec.revision > before.spec.revision
    assert after.spec.table != before.spec.table
    assert any(character.isdigit() for character in after.spec.message or "")
    assert after.spec.reason in [decision.reason for decision in world.summary(model).decisions]


async def test_nothing_is_written_or_pushed_while_nothing_changes(world: World) -> None:
    """A held table costs no write: the object stays at its resourceVersion."""
    await world.model()
    engine = await world.engine()
    await world.tick(3)
    before, pushes = await world.policy(), len(engine.pushes)
    await world.tick(3)
    after = await world.policy()
    assert (after.metadata.resource_version, len(engine.pushes)) == (before.metadata.resource_version, pushes)


async def test_a_restarted_pod_is_pushed_to_again(world: World) -> None:
    """A new boot holds revision 0; it gets the stored table, not a new one, and its profile is asked for again."""
    await world.model()
    engine = await world.engine()
    await world.tick(2, engines=[engine])
    before = await world.policy()
    engine.restart()
    await world.tick()
    after = await world.policy()
    assert (engine.revision, after.spec.revision) == (before.spec.revision, before.spec.revision)
    assert engine.profiles_served == 2


async def test_a_pod_with_a_newer_table_is_outnumbered(world: World) -> None:
    """A DraftPolicy that was lost and written anew must not be refused as older for ever."""
    await world.model()
    engine = await world.engine(engine=FakeEngine(revision=41))
    await world.tick(2)
    policy = await world.policy()
    assert (policy.spec.revision, engine.revision) == (42, 42)


async def test_a_pod_that_does_not_answer_is_left_out_and_reported(world: World) -> None:
    """The others go on; the report carries the reason that MetricsAvailable is made of."""
    model = await world.model()
    healthy = await world.engine()
    await world.engine(engine=FakeEngine(is_silent=True))
    await world.engine(engine=FakeEngine(token="another"))
    await world.tick(2, engines=[healthy])
    policy = await world.policy()
    failures = sorted(pod.failure for pod in world.summary(model).pods if pod.failure is not None)
    assert (failures, healthy.revision) == (["Timeout", "Unauthorized"], policy.spec.revision)


async def test_a_new_leader_holds_the_stored_table(world: World) -> None:
    """It has seen no drafts itself, so what its predecessor decided stays."""
    await world.model()
    engine = await world.engine()
    await world.tick(8, engines=[engine])
    before = await world.policy()
    world.new_leader()
    await world.tick(1)
    after = await world.policy()
    assert (after.spec.table, after.spec.revision) == (before.spec.table, before.spec.revision)


async def test_a_deleted_policy_is_written_again(world: World) -> None:
    """The loop looks at what is stored, not at what it did before; pods see a higher revision."""
    await world.model()
    engine = await world.engine()
    await world.tick(2, engines=[engine])
    before = await world.policy()
    await world.cluster.delete(DRAFT_POLICY, world.namespace, before.name)
    await world.tick(2)
    after = await world.policy()
    assert (after.spec.table, after.spec.revision) == (before.spec.table, before.spec.revision + 1)
    assert engine.revision == after.spec.revision


async def test_a_model_without_pods_has_no_policy(world: World) -> None:
    """There is nobody to decide for, and no figures to decide from."""
    model = await world.model()
    await world.tick()
    found = await world.cluster.get(DRAFT_POLICY, world.namespace, model.name)
    assert (found, world.summary(model).pods) == (None, ())
