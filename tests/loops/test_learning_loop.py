"""The learning loop on a real API server and its real Job controller: only the kubelet and the engines are played."""

from __future__ import annotations

import pytest

from bowsprit_operator.resources import conditions
from bowsprit_operator.resources.conditions import Condition
from bowsprit_operator.resources.kinds import EVENT, JOB, SPECULATOR_REVISION, SPECULATOR_TRAINING
from bowsprit_operator.resources.workloads import Job
from bowsprit_policy import wire
from builders import training_result
from loops.fake_engine import FakeEngine
from loops.world import World

pytestmark = pytest.mark.apiserver

ENOUGH = wire.CaptureStats(enabled=True, requests=5000, tokens=400_000, response_tokens=300_000, shards=8)


def said(found: tuple[Condition, ...], type_: str) -> tuple[str, str] | None:
    condition = conditions.find(found, type_)
    return None if condition is None else (condition.status.value, condition.reason)


async def captured(world: World) -> FakeEngine:
    """An engine whose traffic is enough to learn from."""
    engine = await world.engine()
    await world.tick(2, engines=[engine])
    engine.capture = ENOUGH
    await world.tick(2, engines=[engine])
    return engine


async def pod_of(world: World, job_name: str) -> str:
    """The pod that the Job controller made."""

    async def exists() -> bool:
        return bool(await world.pods_of_job(job_name))

    await world.until(exists)
    return str((await world.pods_of_job(job_name))[0].metadata.name)


async def ends(world: World, job_name: str, *, message: str, exit_code: int = 0, reason: str = "Completed") -> None:
    """The training container of that Job ends with this termination message."""
    pod = await pod_of(world, job_name)
    phase = "Succeeded" if exit_code == 0 else "Failed"
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    await world.pod_says(pod, phase=phase, ready=False, terminated=terminated)


async def finished(world: World, training: str) -> None:
    async def is_finished() -> bool:
        return (await world.training(training)).status.completion_time is not None

    await world.until(is_finished)


async def by_hand(world: World, name: str, drafter: str = "head", model: str = "smollm2") -> None:
    manifest = {
        "metadata": {"name": name, "namespace": world.namespace},
        "spec": {"modelName": model, "drafter": drafter},
    }
    await world.cluster.create(SPECULATOR_TRAINING, manifest, manager="the-user")


async def test_first_traffic_becomes_a_run_and_its_job(world: World) -> None:
    """Enough captured traffic and no speculator yet: a run of the model's own, named by its number."""
    model = await world.model()
    await captured(world)
    await world.tick(2)
    training = await world.training("smollm2-head-1")
    job = await world.cluster.read(Job, world.namespace, "smollm2-head-1")
    assert job is not None
    assert (training.spec.trigger, training.metadata.controller_uid) == ("FirstTraffic", model.metadata.uid)
    assert job.metadata.controller_uid == training.metadata.uid


async def test_a_better_candidate_is_promoted_and_every_pod_loads_it(world: World) -> None:
    """Result, gate, revision, DraftPolicy, load, acknowledgement: each is there, and the training is Complete."""
    await world.model()
    engine = await captured(world)
    await world.tick(2)
    await ends(world, "smollm2-head-1", message=training_result().model_dump_json(by_alias=True))

    async def is_loaded() -> bool:
        return engine.loaded("head") == "smollm2-head-1"

    await world.until(is_loaded)
    await world.tick()
    training, revision, policy = (
        await world.training("smollm2-head-1"),
        await world.revision("smollm2-head-1"),
        await world.policy(),
    )
    assert (training.status.outcome, said(training.status.conditions, "Complete")) == (
        "Promoted",
        ("True", "BetterThanIncumbent"),
    )
    assert said(revision.status.conditions, "Promoted") == ("True", "GatePassed")
    assert (revision.metadata.owner_references, revision.spec.number) == ((), 1)
    assert [(s.drafter, s.revision) for s in policy.status.pods[0].speculators] == [("head", "smollm2-head-1")]


async def test_a_worse_candidate_is_rejected_with_both_numbers(world: World) -> None:
    """A correct outcome: the revision keeps its evaluation, nothing is loaded, the decision names the figures."""
    model = await world.model()
    engine = await captured(world)
    await world.tick(2)
    worse = training_result(incumbent=2.0, candidate=1.9)
    await ends(world, "smollm2-head-1", message=worse.model_dump_json(by_alias=True))
    await finished(world, "smollm2-head-1")
    await world.tick()
    revision, policy = await world.revision("smollm2-head-1"), await world.policy()
    rejected = conditions.find(revision.status.conditions, "Rejected")
    assert rejected is not None
    assert (rejected.status.value, "2.00" in rejected.message, "1.90" in rejected.message) == ("True", True, True)
    assert (policy.spec.speculators, engine.loads) == ((), [])
    assert "Reject" in [decision.kind for decision in world.summary(model).decisions]


@pytest.mark.parametrize(
    ("message", "exit_code", "kubelet_reason", "expected"),
    [
        (
            wire.TrainingResult(
                succeeded=False, reason="ShardUnreadable", message="shard x.parquet: not a Parquet file"
            ).model_dump_json(by_alias=True),
            1,
            "Error",
            "ShardUnreadable",
        ),
        ("", 137, "OOMKilled", "OutOfMemory"),
        ("", 137, "Error", "PodKilled"),
        ("Traceback: boom", 1, "Error", "PodFailed"),
        ("not a result", 0, "Completed", "ResultUnreadable"),
    ],
)
async def test_a_failed_run_says_why_and_leaves_the_incumbent(
    world: World, message: str, exit_code: int, kubelet_reason: str, expected: str
) -> None:
    """Whatever ends a run, the training is Failed with a reason, and no revision appears."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    await world.engine()
    await by_hand(world, "mine")
    await world.tick(3)
    await ends(world, "smollm2-head-1", message=message, exit_code=exit_code, reason=kubelet_reason)
    await finished(world, "mine")
    training = await world.training("mine")
    stored = await world.cluster.get(SPECULATOR_REVISION, world.namespace, "smollm2-head-1")
    assert (said(training.status.conditions, "Failed"), training.status.outcome) == (("True", expected), "Failed")
    assert (stored, (await world.policy()).spec.speculators) == (None, ())


async def test_an_image_that_is_too_old_to_train_is_run_once(world: World) -> None:
    """The user pinned it: the run and the loop name the image, nothing starts again until it is another one."""
    model = await world.model(engine={"image": "mine:1"})
    await captured(world)
    await world.tick(2)
    refused = "Usage: bowsprit-engine train [OPTIONS]\n\nError: No such option: --scratch-dir"
    await ends(world, "smollm2-head-1", message=refused, exit_code=2, reason="Error")
    await finished(world, "smollm2-head-1")
    world.now += 2 * 3600
    await world.tick(2)
    training = await world.training("smollm2-head-1")
    failed = conditions.find(training.status.conditions, "Failed")
    assert failed is not None
    assert (failed.reason, training.status.image, "--scratch-dir" in failed.message) == (
        "ImageRefusesFlags",
        "mine:1",
        True,
    )
    assert world.summary(model).learning_reason == "ImageRefusesFlags"
    assert "mine:1" in world.summary(model).learning_message
    assert await world.cluster.get(SPECULATOR_TRAINING, world.namespace, "smollm2-head-2") is None


async def test_a_killed_pod_fails_its_run(world: World) -> None:
    """The Job never retries: a run whose pod was deleted is over, and says so, in the model's Events too."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    await world.engine()
    await by_hand(world, "mine")
    await world.tick(3)
    pod = await pod_of(world, "smollm2-head-1")
    await world.core.delete_namespaced_pod(pod, world.namespace, grace_period_seconds=0)
    await finished(world, "mine")
    training = await world.training("mine")
    assert said(training.status.conditions, "Failed") == ("True", "PodLost")
    told = [
        (event["type"], event["reason"], event["action"], event["regarding"]["name"], event["related"]["name"])
        for event in await world.cluster.list(EVENT, world.namespace)
        if event["regarding"]["kind"] == "SpeculativeModel"
    ]
    assert told == [("Warning", "TrainingFailed", "PodLost", "smollm2", "mine")]


async def test_progress_of_the_pod_is_in_the_training(world: World) -> None:
    """Whoever watches the training sees which step it is at."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    trainer = await world.engine()
    await by_hand(world, "mine")
    await world.tick(3)
    await world.pod_says(await pod_of(world, "smollm2-head-1"), phase="Running", ready=True, ip=trainer.ip)
    await world.tick()
    progress = (await world.training("mine")).status.progress
    assert progress is not None
    assert (progress.phase, progress.step, progress.steps) == ("Training", 3, 10)


async def test_a_new_leader_goes_on_with_the_same_run(world: World) -> None:
    """The operator is killed after every write: one Job, one revision, one number."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    engine = await world.engine()
    await by_hand(world, "mine")
    for _ in range(4):
        await world.tick()
        world.new_leader()
    await ends(world, "smollm2-head-1", message=training_result().model_dump_json(by_alias=True))
    for _ in range(4):
        await world.tick()
        world.new_leader()
    await finished(world, "mine")

    async def is_loaded() -> bool:
        return engine.loaded("head") == "smollm2-head-1"

    await world.until(is_loaded)
    jobs = await world.cluster.list(JOB, world.namespace)
    revisions = await world.cluster.list(SPECULATOR_REVISION, world.namespace)
    assert (len(jobs), [revision["metadata"]["name"] for revision in revisions]) == (1, ["smollm2-head-1"])


async def test_manual_promotion_waits_for_a_pin(world: World) -> None:
    """In mode Manual a revision that passed stops at Evaluated; naming it in spec promotes it, and the run says so."""
    manual = {"training": {"drafter": "head", "mode": "Manual"}, "promotion": {"mode": "Manual"}}
    await world.model(**manual)
    await world.engine()
    await by_hand(world, "mine")
    await world.tick(3)
    await ends(world, "smollm2-head-1", message=training_result().model_dump_json(by_alias=True))
    await finished(world, "mine")
    await world.tick()
    waiting = (await world.training("mine")).status.outcome, (await world.policy()).spec.speculators
    drafters = [{"name": "ngram", "type": "NGram"}, {"name": "head", "type": "Head", "revision": "smollm2-head-1"}]
    await world.model(**manual, speculation={"drafters": drafters})
    await world.tick(2)
    revision, policy = await world.revision("smollm2-head-1"), await world.policy()
    assert waiting == ("Evaluated", ())
    assert said(revision.status.conditions, "Promoted") == ("True", "PinnedBySpec")
    assert (revision.status.stage, (await world.training("mine")).status.outcome) == ("Promoted", "Promoted")
    assert [speculator.revision for speculator in policy.spec.speculators] == ["smollm2-head-1"]


async def test_a_run_of_a_drafter_that_cannot_be_trained_is_refused(world: World) -> None:
    """A user's mistake ends the training with what was wrong, and no Job is made."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    await world.engine()
    await by_hand(world, "mine", drafter="ngram")
    await world.tick(2)
    training = await world.training("mine")
    assert said(training.status.conditions, "Failed") == ("True", "DrafterNotTrainable")
    assert await world.cluster.list(JOB, world.namespace) == ()


async def test_the_speculator_that_a_pod_refuses_is_reported_and_not_offered_every_tick(world: World) -> None:
    """The pod goes on plainly; the acknowledgement carries its own words."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    engine = await world.engine(engine=FakeEngine(refusal="sha256 differs"))
    await by_hand(world, "mine")
    await world.tick(3)
    await ends(world, "smollm2-head-1", message=training_result().model_dump_json(by_alias=True))
    await finished(world, "mine")

    async def is_reported() -> bool:
        pods = (await world.policy()).status.pods
        return bool(pods) and "sha256 differs" in (pods[0].message or "")

    await world.until(is_reported)
    await world.tick(3)
    assert len(engine.loads) == 1


async def test_a_speculator_needs_no_table(world: World) -> None:
    """On a machine too busy for a profile there is no table, and a promoted head serves under the pods' own policy."""
    await world.model(training={"drafter": "head", "mode": "Manual"})
    engine = FakeEngine()
    engine.service.profile = engine.service.profile.model_copy(update={"cells": ()})
    await world.engine(engine=engine)
    await by_hand(world, "mine")
    await world.tick(3)
    await ends(world, "smollm2-head-1", message=training_result().model_dump_json(by_alias=True))

    async def is_loaded() -> bool:
        return engine.loaded("head") == "smollm2-head-1"

    await world.until(is_loaded)
    policy = await world.policy()
    assert (policy.spec.table, engine.pushes) == ((), [])
