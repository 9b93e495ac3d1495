"""The shadow stage on a real API server: what passed the gate drafts beside who serves before it does."""

from __future__ import annotations

from typing import Any

import pytest

from bowsprit_operator.resources import conditions, names
from bowsprit_operator.resources.kinds import DRAFT_POLICY, SPECULATOR_REVISION
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.world.cluster import Cluster
from builders import MODEL_DIGEST
from loops.fake_engine import FakeEngine
from loops.world import World

pytestmark = pytest.mark.apiserver

PLACES = 20  # scored per tick of traffic; the loops' clock moves by 15 s then
BETTER, WORSE, EQUAL = [(3, 1), (1, 1)], [(1, 3), (1, 1)], [(1, 2), (2, 1)]


def engine_with(pairs: list[tuple[int, int]], **misbehaviour: Any) -> FakeEngine:
    return FakeEngine(shadow_matches=(pairs * PLACES)[:PLACES], **misbehaviour)


async def passed_the_gate(world: World, number: int) -> str:
    """A revision as a training run leaves it: evaluated, and better on the holdout."""
    name = f"smollm2-head-{number}"
    spec = {
        "modelName": "smollm2",
        "drafter": "head",
        "number": number,
        "modelDigest": MODEL_DIGEST,
        "artifact": {"uri": f"file:///claims/learning/{name}", "sha256": "b" * 64, "bytes": 1},
    }
    metadata = {"name": name, "namespace": world.namespace}
    manifest = {"metadata": metadata, "spec": spec}
    await world.cluster.create(SPECULATOR_REVISION, manifest, manager="a-run")
    await evaluated(world.cluster, await world.revision(name), world)
    return name


async def evaluated(cluster: Cluster, revision: SpeculatorRevision, world: World) -> None:
    moment = "2026-11-27T08:00:00Z"
    said = [
        {"type": type_, "status": status, "reason": "BetterThanIncumbent", "message": "", "lastTransitionTime": moment}
        for type_, status in (("Evaluated", "True"), ("Promoted", "False"), ("Rejected", "False"))
    ]
    status = type(revision.status).model_validate({"stage": "Evaluated", "conditions": said})
    await cluster.apply_status(revision, status, manager="bowsprit-learning-loop")


async def serving_the_first(world: World, *engines: FakeEngine, shadow: str = "5m") -> list[FakeEngine]:
    """Every engine serves smollm2-head-1, which the user took without a shadow; from now on there is that stage."""
    await world.model()
    pods = [await world.engine(engine=engine) for engine in engines]
    first = await passed_the_gate(world, 1)

    async def everybody_serves() -> bool:
        return all(engine.loaded("head") == first for engine in pods)

    await world.until(everybody_serves)
    await world.model(promotion={"shadow": shadow})
    return pods


async def in_the_shadow(world: World, name: str, engines: list[FakeEngine]) -> None:
    """That revision is loaded beside who serves, wherever it can be."""

    async def is_scored() -> bool:
        return all(engine.shadow is not None and engine.shadow.candidate.revision == name for engine in engines)

    await world.until(is_scored)


def said(revision: SpeculatorRevision, type_: str) -> tuple[str, str]:
    condition = conditions.find(revision.status.conditions, type_)
    assert condition is not None, f"no condition {type_}"
    return condition.status.value, condition.reason


async def test_a_better_candidate_leaves_the_shadow_early_and_serves_without_being_read_again(world: World) -> None:
    """While it is in there, status and policy say so, the incumbent serves; then its promotion has the numbers."""
    model = await world.model()
    (engine,) = await serving_the_first(world, engine_with(BETTER))
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    await world.tick()
    during, policy = await world.revision(second), await world.policy()
    assert (during.status.stage, said(during, "Shadowed")) == ("Shadow", ("Unknown", "Shadowing"))
    assert (said(during, "Promoted"), engine.loaded("head")) == (("False", "InShadow"), "smollm2-head-1")
    assert [entry.revision for entry in policy.spec.candidates] == [second]
    (acknowledged,) = policy.status.pods[0].speculators
    assert acknowledged.shadow is not None
    assert (acknowledged.shadow.revision, acknowledged.shadow.state) == (second, "Scoring")

    await world.tick(2, engines=[engine])

    async def is_served() -> bool:
        return engine.loaded("head") == second

    await world.until(is_served)
    await world.tick()
    after, policy = await world.revision(second), await world.policy()
    assert (after.status.stage, said(after, "Shadowed")) == ("Promoted", ("True", "BetterInShadow"))
    assert said(after, "Promoted") == ("True", "GatePassed")
    shadow = after.status.shadow
    assert shadow is not None
    assert shadow.difference is not None
    assert (shadow.incumbent, shadow.pods, shadow.places) == ("smollm2-head-1", 1, 2 * PLACES)
    assert (shadow.candidate_matched, shadow.incumbent_matched, shadow.difference.mean) == (2.0, 1.0, 1.0)
    assert shadow.difference.low > 0
    assert (policy.spec.candidates, engine.shadow, engine.reads) == ((), None, ["smollm2-head-1", second])
    told = [(decision.kind, decision.reason, decision.after) for decision in world.summary(model).decisions]
    assert [each for each in told if each[0] in ("Shadow", "Promote")][:2] == [
        ("Promote", "GatePassed", second),
        ("Shadow", "InShadow", second),
    ]


async def test_a_worse_candidate_is_rejected_with_both_numbers_and_unloaded(world: World) -> None:
    """The gate was wrong about live traffic: the incumbent serves on, and nobody was served by the candidate."""
    model = await world.model()
    (engine,) = await serving_the_first(world, engine_with(WORSE))
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    await world.tick(2, engines=[engine])

    async def is_unloaded() -> bool:
        return engine.shadow is None

    await world.until(is_unloaded)
    revision, policy = await world.revision(second), await world.policy()
    rejected = conditions.find(revision.status.conditions, "Rejected")
    assert rejected is not None
    assert (revision.status.stage, said(revision, "Shadowed")) == ("Rejected", ("False", "WorseInShadow"))
    assert (rejected.status.value, rejected.reason) == ("True", "WorseInShadow")
    assert rejected.message.startswith("1.00 tokens matched per place, 2.00 by smollm2-head-1, difference -1.00 [")
    assert said(revision, "Evaluated") == ("True", "BetterThanIncumbent")
    assert (engine.loaded("head"), policy.spec.candidates) == ("smollm2-head-1", ())
    told = [(decision.kind, decision.reason, decision.after) for decision in world.summary(model).decisions]
    assert ("Reject", "WorseInShadow", "smollm2-head-1") in told


async def test_a_candidate_that_no_pod_can_shadow_serves_by_the_gate_alone(world: World) -> None:
    """One pod has no memory for it, another is of a version without shadows, and is never offered one."""
    full, old = engine_with(BETTER, shadow_refusal="no memory for a second head"), engine_with([], knows_shadows=False)
    await serving_the_first(world, full, old, shadow="24h")
    second = await passed_the_gate(world, 2)

    async def is_served() -> bool:
        return full.loaded("head") == old.loaded("head") == second

    await world.until(is_served)
    await world.tick()
    revision = await world.revision(second)
    shadowed = conditions.find(revision.status.conditions, "Shadowed")
    assert shadowed is not None
    assert (shadowed.status.value, shadowed.reason) == ("True", "NoPodShadows")
    assert "(Refused: " in shadowed.message
    assert "no memory for a second head" in shadowed.message
    assert "(Unsupported: its engine knows no shadows)" in shadowed.message
    assert [load.role for _, load in old.loads] == ["serving", "serving"]


async def test_one_pod_that_can_shadow_is_enough(world: World) -> None:
    """The others are named beside the figures."""
    able, old = engine_with(WORSE), engine_with([], knows_shadows=False)
    await serving_the_first(world, able, old, shadow="24h")
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [able])
    await world.tick(2, engines=[able])

    async def is_rejected() -> bool:
        return (await world.revision(second)).status.stage == "Rejected"

    await world.until(is_rejected)
    rejected = conditions.find((await world.revision(second)).status.conditions, "Rejected")
    assert rejected is not None
    assert "; not scored by " in rejected.message
    assert [load.revision for _, load in old.loads] == ["smollm2-head-1"]


async def test_a_quiet_service_waits_no_longer_than_the_spec_says(world: World) -> None:
    """A minute without a place scored, and a new leader in between, which goes on from what is stored."""
    (engine,) = await serving_the_first(world, engine_with(EQUAL), shadow="1m")
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    await world.tick()
    assert engine.loaded("head") == "smollm2-head-1"
    world.new_leader()

    async def is_served() -> bool:
        return engine.loaded("head") == second

    began = (await world.revision(second)).status.shadow
    await world.until(is_served)
    revision = await world.revision(second)
    assert said(revision, "Shadowed") == ("True", "TooFewPlaces")
    assert began is not None
    assert revision.status.shadow is not None
    assert revision.status.shadow.start_time == began.start_time
    assert engine.reads == ["smollm2-head-1", second]


async def test_while_no_pod_answers_a_candidate_stays_where_it_is(world: World) -> None:
    """Its time may be over by then: what comes next is found out when somebody serves again."""
    (engine,) = await serving_the_first(world, engine_with(EQUAL), shadow="1m")
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    await world.tick()
    began = (await world.revision(second)).status.shadow
    engine.is_silent = True
    await world.tick(8)
    waiting = await world.revision(second)
    assert (waiting.status.stage, waiting.status.shadow) == ("Shadow", began)
    assert [entry.revision for entry in (await world.policy()).spec.candidates] == [second]
    engine.is_silent = False

    async def is_served() -> bool:
        return engine.loaded("head") == second

    await world.until(is_served)


async def test_the_first_revision_of_all_drafts_in_the_shadow_of_nobody(world: World) -> None:
    """It goes on once it is sure to match live text at all; until then no other run starts."""
    model = await world.model(promotion={"shadow": "24h"})
    engine = await world.engine(engine=engine_with(BETTER))
    first = await passed_the_gate(world, 1)
    await in_the_shadow(world, first, [engine])
    assert (engine.loaded("head"), world.summary(model).learning_reason) == (None, "CandidateInShadow")
    await world.tick(3, engines=[engine])

    async def is_served() -> bool:
        return engine.loaded("head") == first

    await world.until(is_served)
    await world.tick()
    revision = await world.revision(first)
    assert said(revision, "Shadowed") == ("True", "BetterInShadow")
    assert revision.status.shadow is not None
    assert (revision.status.shadow.incumbent, engine.reads) == (None, [first])


async def test_a_pinned_revision_ends_the_shadow_of_another(world: World) -> None:
    """The user's word: the candidate is unloaded, and says that it stopped."""
    (engine,) = await serving_the_first(world, engine_with(EQUAL), shadow="24h")
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    drafters = [{"name": "ngram", "type": "NGram"}, {"name": "head", "type": "Head", "revision": "smollm2-head-1"}]
    await world.model(promotion={"shadow": "24h"}, speculation={"drafters": drafters})

    async def is_unloaded() -> bool:
        return engine.shadow is None

    await world.until(is_unloaded)
    revision = await world.revision(second)
    assert (revision.status.stage, said(revision, "Shadowed")) == ("Evaluated", ("Unknown", "Stopped"))
    assert said(revision, "Promoted") == ("False", "PinnedBySpec")


async def test_a_revision_that_has_served_needs_no_shadow_to_serve_again(world: World) -> None:
    """Of a version without that stage, or of an earlier model of this name: the stage would have no end for it."""
    (engine,) = await serving_the_first(world, engine_with(EQUAL), shadow="24h")
    await world.cluster.delete(DRAFT_POLICY, world.namespace, names.draft_policy("smollm2"))
    world.new_leader()
    await world.tick(3)

    async def is_served() -> bool:
        return engine.loaded("head") == "smollm2-head-1" and bool((await world.policy()).spec.speculators)

    await world.until(is_served)
    revision, policy = await world.revision("smollm2-head-1"), await world.policy()
    assert (revision.status.stage, policy.spec.candidates) == ("Promoted", ())
    assert revision.status.shadow is None
    assert engine.loaded("head") == "smollm2-head-1"


async def test_a_pod_that_restarts_gets_its_candidate_again(world: World) -> None:
    """It forgot both; first comes what serves."""
    (engine,) = await serving_the_first(world, engine_with(EQUAL), shadow="24h")
    second = await passed_the_gate(world, 2)
    await in_the_shadow(world, second, [engine])
    engine.restart()
    await in_the_shadow(world, second, [engine])
    first, again = engine.loads[-2:]
    assert (first[1].role, first[1].revision) == ("serving", "smollm2-head-1")
    assert (again[1].role, again[1].revision) == ("shadow", second)
