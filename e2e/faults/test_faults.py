"""Things break during traffic: no request that a live pod had accepted is lost, and status is right again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest_asyncio

from installation import SYSTEM
from kube import condition, eventually
from served_model import ServedModel
from traffic import Answer, Prompt, ask_streaming, client_of, kept_up

TALK = "Count upwards from {number} in words, one number per line."


def prompt(number: int) -> Prompt:
    return Prompt(messages=({"role": "user", "content": TALK.format(number=number)},), max_tokens=64)


@asynccontextmanager
async def streams(url: str, model: str) -> AsyncIterator[list[Answer]]:
    """Streamed requests, two at a time, while the body breaks something."""
    client = client_of(url)

    async def request(number: int) -> Answer:
        return await ask_streaming(client, model, prompt(number))

    try:
        async with kept_up(request, concurrency=2) as answers:
            await eventually(lambda: len(answers) >= 4, seconds=60, what="the first answers")
            yield answers
            seen = len(answers)
            await eventually(lambda: len(answers) >= seen + 4, seconds=60, what="answers after the fault")
    finally:
        await client.close()


def lost(answers: list[Answer]) -> list[str | None]:
    """Errors of requests that a server had begun to answer."""
    return [answer.error for answer in answers if answer.was_accepted and answer.error is not None]


def num_ready(model: ServedModel) -> int:
    return int(model.resource["status"].get("readyReplicas", 0))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_pods(smollm2: ServedModel) -> AsyncIterator[ServedModel]:
    smollm2.kube.run("scale", f"smodel/{smollm2.name}", "--replicas=2")
    await eventually(lambda: num_ready(smollm2) == 2 and len(smollm2.pods) == 2, seconds=180, what="two pods")
    yield smollm2
    smollm2.kube.run("scale", f"smodel/{smollm2.name}", "--replicas=1")
    await eventually(lambda: num_ready(smollm2) == 1, seconds=120, what="one pod again")


async def test_killing_the_leader_loses_nothing(two_pods: ServedModel) -> None:
    """The other replica leads within seconds, and goes on from what is stored."""
    kubectl = two_pods.kube.cluster.kubectl

    def leader() -> str:
        return kubectl("get", "lease", "bowsprit-operator", "-n", SYSTEM, "--output=jsonpath={.spec.holderIdentity}")

    before = leader()
    async with streams(two_pods.url, two_pods.name) as answers:
        kubectl("delete", "pod", before, "-n", SYSTEM, "--grace-period=0", "--force")
        await eventually(lambda: leader() not in ("", before), seconds=60, what="another leader")
        await eventually(two_pods.has_everybody_acknowledged, seconds=60, what="acknowledgements")
    assert (lost(answers), condition(two_pods.resource, "Ready")["status"]) == ([], "True")


async def test_a_pod_that_is_deleted_finishes_what_it_accepted(two_pods: ServedModel) -> None:
    """It drains; the Deployment makes another, which gets the table and the speculator."""
    gone = two_pods.pods[0]["metadata"]
    async with streams(two_pods.url, two_pods.name) as answers:
        two_pods.kube.delete("pod", gone["name"], "--wait=false")
        await eventually(
            lambda: gone["uid"] not in [pod["metadata"]["uid"] for pod in two_pods.pods] and len(two_pods.pods) == 2,
            seconds=180,
            what="another pod",
        )
    await eventually(two_pods.has_everybody_acknowledged, seconds=60, what="acknowledgements")
    assert (lost(answers), num_ready(two_pods)) == ([], 2)


async def test_killing_one_pod_disturbs_no_other(two_pods: ServedModel) -> None:
    """No drain at all, as when a node dies: requests of the pod that lives all end well."""
    killed, alive = two_pods.pods
    with two_pods.kube.cluster.forward(alive["status"]["podIP"], 8000) as port:
        async with streams(f"http://127.0.0.1:{port}", two_pods.name) as answers:
            two_pods.kube.delete("pod", killed["metadata"]["name"], "--grace-period=0", "--force")
            await eventually(
                lambda: len(two_pods.pods) == 2 and two_pods.has_everybody_acknowledged(),
                seconds=180,
                what="another pod with the table",
            )
    assert [answer.error for answer in answers if answer.error is not None] == []
    assert condition(two_pods.resource, "Ready")["status"] == "True"


async def test_requests_do_not_notice_a_restart_of_the_api_server(two_pods: ServedModel) -> None:
    """It is killed and started again. Engines need no Kubernetes to serve; afterwards the operator obeys again."""
    cluster = two_pods.kube.cluster
    api = cluster.api
    assert api is not None
    async with streams(two_pods.url, two_pods.name) as answers:
        cluster.kill("kube-apiserver")
        await eventually(lambda: not api.is_ready(), seconds=10, what="the end of the API server")
        await eventually(api.is_ready, seconds=60, what="the API server again")
    assert [answer.error for answer in answers if answer.error is not None] == []
    generation = two_pods.resource["metadata"]["generation"]
    two_pods.kube.run("scale", f"smodel/{two_pods.name}", "--replicas=1")
    await eventually(
        lambda: two_pods.resource["status"]["observedGeneration"] > generation and num_ready(two_pods) == 1,
        seconds=120,
        what="a status that knows of the scaling",
    )
