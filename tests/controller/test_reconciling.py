"""Path 1 on a real API server: what a user applies becomes children and a status, and stays so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bowsprit_operator.__main__ import Operator
from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.kinds import (
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    POD,
    SERVICE,
    SPECULATIVE_MODEL,
    SPECULATOR_REVISION,
    Kind,
)
from bowsprit_operator.serving.plan import child_names
from bowsprit_operator.world.cluster import ClusterError
from cluster.driver import Cluster as ClusterUnderTest
from controller.lab import REVISION, Lab, get, sample, until

pytestmark = pytest.mark.apiserver


async def children(lab: Lab, name: str) -> dict[Kind, dict[str, Any] | None]:
    """Every child of a model, None where it isn't stored."""
    kinds = child_names(name)
    stored = await asyncio.gather(*(lab.get(kind, child) for kind, child in kinds.items()))
    return dict(zip(kinds, stored, strict=True))


async def test_applying_a_model_creates_every_child_and_a_whole_status(lab: Lab) -> None:
    """Without a node no pod runs, so it reconciles and says what it waits for."""
    async with lab.operator(engine_image="engine:9"):
        await lab.apply("m", speculation={"draftTokens": {"max": 5}})
        await until(lambda: children(lab, "m"), lambda stored: None not in stored.values())
        await lab.condition("m", ModelCondition.ENGINES_READY, reason="Unschedulable")
        status = (await lab.model("m")).status
    assert [condition.type for condition in status.conditions] == [type_.value for type_ in ModelCondition]
    assert status.selector == "app.kubernetes.io/component=engine,bowsprit.dev/model=m"
    assert status.effective is not None
    assert (status.effective.draft_tokens_max, status.effective.image) == (5, "engine:9")


async def test_nothing_is_written_once_everything_is_as_it_should_be(lab: Lab) -> None:
    """More passes, same resourceVersions: the real server's defaults aren't drift, equal statuses aren't written."""
    async with lab.operator() as operator:
        await lab.apply("m", engine={"resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}, "maxBatchSize": 4})
        await lab.condition("m", ModelCondition.ENGINES_READY, reason="Unschedulable")
        await lab.condition("m", ModelCondition.RECONCILING, reason="EnginesStarting")
        before = await versions(lab)
        for text in ("a", "b", "c"):
            done = await passes(operator)
            await touch(lab, text)
            await until(lambda: passes(operator), lambda count, done=done: count > done)  # type: ignore[misc]
        assert await versions(lab) == before


async def versions(lab: Lab) -> dict[str, str]:
    """The resourceVersion of the model and of every child but the Deployment, which its controller writes too."""
    stored = await children(lab, "m") | {SPECULATIVE_MODEL: await lab.get(SPECULATIVE_MODEL, "m")}
    return {
        kind.kind: found["metadata"]["resourceVersion"]
        for kind, found in stored.items()
        if found is not None and kind is not DEPLOYMENT
    } | {"Deployment generation": str((stored[DEPLOYMENT] or {})["metadata"]["generation"])}


async def touch(lab: Lab, text: str) -> None:
    """A user labels the Deployment: no drift, but the operator looks again."""
    await lab.edit(DEPLOYMENT, "m", metadata={"name": "m", "namespace": lab.namespace, "labels": {"touch": text}})


async def passes(operator: Operator) -> int:
    """How many passes the operator has finished."""
    _, text = await get(operator.health_port, "/metrics")
    totals = [line.split()[-1] for line in text.splitlines() if line.startswith("bowsprit_reconcile_total{")]
    return sum(int(float(total)) for total in totals)


@pytest.mark.parametrize(
    ("kind", "edit", "read"),
    [
        (DEPLOYMENT, {"replicas": 7}, lambda spec: spec["replicas"]),
        (SERVICE, {"selector": {"bowsprit.dev/model": "other"}}, lambda spec: spec["selector"]["bowsprit.dev/model"]),
        (NETWORK_POLICY, {"policyTypes": ["Egress"]}, lambda spec: spec["policyTypes"]),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_a_users_edit_of_a_child_is_repaired(lab: Lab, kind: Kind, edit: dict[str, Any], read: Any) -> None:
    """Level-triggered: whoever changed it, and whenever."""
    async with lab.operator():
        await lab.apply("m")
        await until(lambda: children(lab, "m"), lambda stored: None not in stored.values())
        before = read((await lab.exists(kind, "m"))["spec"])
        await lab.edit(kind, "m", spec=edit)
        repaired = await until(lambda: lab.exists(kind, "m"), lambda stored: read(stored["spec"]) == before)
    assert read(repaired["spec"]) == before


async def test_a_deleted_child_comes_back(lab: Lab) -> None:
    """It is another object with the same contents."""
    async with lab.operator():
        await lab.apply("m")
        gone = await lab.exists(SERVICE, "m")
        await lab.cluster.delete(SERVICE, lab.namespace, "m")
        again = await until(lambda: lab.exists(SERVICE, "m"), lambda stored: is_another(stored, gone))
    assert again["spec"]["selector"] == gone["spec"]["selector"]


def is_another(stored: dict[str, Any], before: dict[str, Any]) -> bool:
    return bool(stored["metadata"]["uid"] != before["metadata"]["uid"])


async def test_nothing_of_ours_is_in_the_users_object_but_status(lab: Lab) -> None:
    """managedFields: our managers own fields under status alone."""
    async with lab.operator():
        await lab.apply("m")
        await lab.condition("m", ModelCondition.ENGINES_READY, reason="Unschedulable")
        stored = await lab.exists(SPECULATIVE_MODEL, "m")
    ours = [entry for entry in stored["metadata"]["managedFields"] if entry["manager"].startswith("bowsprit")]
    assert [(entry["subresource"], list(entry["fieldsV1"])) for entry in ours] == [("status", ["f:status"])]
    assert stored["metadata"]["labels"] == {"team": "a"}
    assert "finalizers" not in stored["metadata"]


async def test_scale_changes_the_number_of_engines(lab: Lab, api_server: ClusterUnderTest) -> None:
    """kubectl scale writes spec.replicas, as an HPA does."""
    async with lab.operator():
        await lab.apply("m")
        await lab.exists(DEPLOYMENT, "m")
        arguments = ("scale", "smodel/m", "--replicas=2", "--namespace", lab.namespace)
        await asyncio.to_thread(api_server.kubectl, *arguments)
        scaled = await until(lambda: lab.exists(DEPLOYMENT, "m"), lambda stored: stored["spec"]["replicas"] == 2)
    assert scaled["spec"]["replicas"] == 2


async def test_deleting_a_model_leaves_its_revisions_and_nothing_else(lab: Lab) -> None:
    """Children go by their owner references; git may pin a revision. A re-created model doesn't touch it."""
    revision = {"metadata": {"name": "m-head-1", "namespace": lab.namespace}, "spec": REVISION}
    async with lab.operator():
        await lab.apply("m")
        await until(lambda: children(lab, "m"), lambda stored: None not in stored.values())
        kept = await lab.cluster.create(SPECULATOR_REVISION, revision)
        await lab.cluster.delete(SPECULATIVE_MODEL, lab.namespace, "m", propagation="Foreground")
        await until(lambda: children(lab, "m"), lambda stored: not any(stored.values()))
        await until(lambda: pods_and_jobs(lab), lambda count: count == 0)
        await lab.apply("m")
        await until(lambda: children(lab, "m"), lambda stored: None not in stored.values())
        after = await lab.exists(SPECULATOR_REVISION, "m-head-1")
    assert after["metadata"]["resourceVersion"] == kept["metadata"]["resourceVersion"]


async def pods_and_jobs(lab: Lab) -> int:
    return len(await lab.cluster.list(POD, lab.namespace)) + len(await lab.cluster.list(JOB, lab.namespace))


async def test_a_spec_that_the_api_server_refuses_stalls_with_its_words(lab: Lab) -> None:
    """What the CRD passes through is checked when the Deployment is written."""
    terms: dict[str, Any] = {"nodeSelectorTerms": []}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    async with lab.operator():
        await lab.apply("m", engine={"affinity": affinity})
        status, message = await lab.condition("m", ModelCondition.STALLED, reason="SpecRefused")
        await lab.apply("m")
        recovered, _ = await lab.condition("m", ModelCondition.STALLED, reason="NotStalled")
    assert (status, recovered) == ("True", "False")
    assert "nodeSelectorTerms: Required value" in message


async def test_somebody_elses_deployment_is_not_taken_over(lab: Lab) -> None:
    """The model stalls and says what to do; the object stays as it was."""
    labels = {"app": "theirs"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "theirs:1"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    await lab.edit(DEPLOYMENT, "m", spec=spec)
    async with lab.operator(resync_seconds=1.0):
        await lab.apply("m")
        status, message = await lab.condition("m", ModelCondition.STALLED, reason="ChildNotOurs")
        stored = await lab.exists(DEPLOYMENT, "m")
        await lab.cluster.delete(DEPLOYMENT, lab.namespace, "m")
        await lab.condition("m", ModelCondition.STALLED, reason="NotStalled")
    assert status == "True"
    assert "Deployment m exists and doesn't belong to this SpeculativeModel" in message
    assert stored["spec"]["template"]["spec"]["containers"][0]["image"] == "theirs:1"


@pytest.mark.parametrize("name", ["smallest", "cpu-smollm2", "gpu"])
async def test_a_sample_becomes_a_deployment(lab: Lab, name: str) -> None:
    """The API server takes the sample, and the children that follow from it."""
    manifest = sample(name)
    manifest["metadata"]["namespace"] = lab.namespace
    async with lab.operator():
        await lab.cluster.apply(SPECULATIVE_MODEL, manifest, manager="user")
        model = manifest["metadata"]["name"]
        stored = await until(lambda: children(lab, model), lambda stored: None not in stored.values())
    assert (stored[DEPLOYMENT] or {})["spec"]["replicas"] == manifest["spec"].get("replicas", 1)


async def test_the_operator_outlives_the_api_server(lab: Lab, api_server: ClusterUnderTest) -> None:
    """Killed and started again: watches, Lease and queue come back by themselves."""
    async with lab.operator():
        await lab.apply("before")
        await lab.exists(DEPLOYMENT, "before")
        await asyncio.to_thread(api_server.kill, "kube-apiserver")
        await until(lambda: is_applied(lab, "after"), lambda is_done: is_done)
        await lab.exists(DEPLOYMENT, "after")
        assert await lab.leader() == "one"


async def is_applied(lab: Lab, name: str) -> bool:
    """Whether the API server took it this time."""
    try:
        await lab.apply(name)
    except ClusterError:
        return False
    return True
