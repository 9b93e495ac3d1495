"""The learning loop for real: captured traffic, a Job on the CPU, the gate, the shadow, and what serves afterwards."""

from __future__ import annotations

import pytest
import pytest_asyncio

from installation import sample
from kube import Json, Kube, condition, eventually, is_true
from served_model import ServedModel
from traffic import Answer, ask, send
from training_runs import (
    acceptance_length,
    ended,
    narrow,
    noise,
    runs_of,
    set_promotion,
    set_training,
    start_by_hand,
)

NUM_REQUESTS = 440
NUM_FRESH = 48


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triggered(smollm2: ServedModel) -> Json:
    """A run that the controller started by itself on a narrow stream, once it has ended."""
    set_training(smollm2, mode="Auto", trigger={"minTokens": "20k"})
    async with smollm2.client() as client:
        await send(client, smollm2.name, narrow(NUM_REQUESTS), concurrency=8)
    runs = await eventually(lambda: runs_of(smollm2) or None, seconds=90, what="a SpeculatorTraining")
    name = runs[0]["metadata"]["name"]
    run = await eventually(lambda: ended(smollm2.kube, name), seconds=480, what=f"the end of {name}")
    set_training(smollm2, mode="Manual")
    return run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shadowed(triggered: Json, smollm2: ServedModel) -> Json:
    """The revision of that run while every pod scores it and none serves it. Nobody asks, so it waits ten minutes."""
    name = triggered["status"]["revision"]
    await eventually(lambda: smollm2.shadows(name), seconds=60, what=f"{name} in every pod's shadow")
    return smollm2.kube.read("srev", name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def promoted(shadowed: Json, smollm2: ServedModel) -> Json:
    """The same, served by every pod once the user found that it had waited long enough."""
    name = shadowed["metadata"]["name"]
    set_promotion(smollm2, shadow="1s")
    await eventually(lambda: smollm2.serves(name), seconds=60, what=f"{name} in every pod")
    return smollm2.kube.read("srev", name)


async def test_first_traffic_starts_a_run_and_its_job_completes(triggered: Json, smollm2: ServedModel) -> None:
    """The controller created it for its own reason, with the numbers behind it, and the Job ended well."""
    # The result is read from the pod; the Job controller says Complete a moment later.
    smollm2.kube.wait(f"job/{triggered['status']['jobName']}", "condition=Complete", seconds=30)
    assert (triggered["spec"]["trigger"], condition(triggered, "Complete")["status"]) == ("FirstTraffic", "True")
    assert any(character.isdigit() for character in triggered["spec"]["message"])


async def test_what_passed_the_gate_drafts_in_the_shadow_before_it_serves(shadowed: Json, promoted: Json) -> None:
    """While it does, it says so; afterwards, how that ended and since when it was there."""
    during, after = condition(shadowed, "Shadowed"), condition(promoted, "Shadowed")
    assert (shadowed["status"]["stage"], is_true(shadowed, "Promoted")) == ("Shadow", False)
    assert (during["status"], during["reason"]) == ("Unknown", "Shadowing")
    assert (promoted["status"]["stage"], after["status"], after["reason"]) == ("Promoted", "True", "TooFewPlaces")
    assert promoted["status"]["shadow"]["startTime"] == shadowed["status"]["shadow"]["startTime"]


async def test_a_head_that_learnt_the_stream_passes_the_gate(promoted: Json) -> None:
    """Longer accepted runs on at least 200 held-out requests, the whole confidence interval above zero."""
    recent = promoted["spec"]["evaluation"]["recent"]
    assert recent["gain"]["requests"] >= 200
    assert float(recent["candidate"]["mean"]) > float(recent["incumbent"]["mean"])
    assert float(recent["gain"]["low"]) > 0
    assert (is_true(promoted, "Promoted"), is_true(promoted, "Rejected")) == (True, False)


async def test_status_shows_what_serves(promoted: Json, smollm2: ServedModel) -> None:
    """status.speculators, SpeculatorCurrent and the decision say the same."""
    name = promoted["metadata"]["name"]
    resource = await eventually(
        lambda: found if condition(found := smollm2.resource, "SpeculatorCurrent").get("status") == "True" else None,
        seconds=60,
        what="SpeculatorCurrent",
    )
    in_use = [(entry["name"], entry["revision"]) for entry in resource["status"]["speculators"]]
    promotions = [entry["to"] for entry in resource["status"]["decisions"] if entry["kind"] == "Promote"]
    assert (in_use, promotions) == ([("head", name)], [name])


async def test_fresh_requests_of_the_stream_are_accepted_further(promoted: Json, smollm2: ServedModel) -> None:
    """Live, on questions that nobody has asked before, side by side: all drafters against look-up alone.

    Each side is a tenant of its own, so that neither looks up what the other was told.
    """
    prompts = narrow(NUM_FRESH, skip=NUM_REQUESTS)
    with_head: list[Answer] = []
    without: list[Answer] = []
    async with smollm2.client() as client:
        for prompt in prompts:
            with_head.append(await ask(client, smollm2.name, prompt, tenant="with-head"))
            without.append(await ask(client, smollm2.name, prompt, drafter="suffix", tenant="without"))
    assert [answer.text for answer in with_head] == [answer.text for answer in without]
    assert acceptance_length(with_head) > acceptance_length(without)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_the_head_changes_no_token_either(promoted: Json, smollm2: ServedModel, temperature: float) -> None:
    """Drafts of a trained head are verified like any other: the text is that of plain decoding."""
    prompts = [prompt.at(temperature=temperature, seed=3) for prompt in narrow(8, skip=NUM_REQUESTS)]
    async with smollm2.client() as client:
        plain = await send(client, smollm2.name, prompts, concurrency=2, is_speculative=False)
        speculative = await send(client, smollm2.name, prompts, concurrency=2)
    assert [answer.text for answer in speculative] == [answer.text for answer in plain]
    assert sum(answer.accepted for answer in speculative) > 0


async def test_what_cannot_be_learnt_is_rejected_with_both_numbers(kube: Kube) -> None:
    """A stream of noise: the run completes, the candidate isn't better, and the untrained drafters go on."""
    kube.apply(sample(kube.namespace, name="noise", training__mode="Manual", training__budget__deadline="8m"))
    model = ServedModel.when_ready(kube, "noise")
    async with model.client() as client:
        await send(client, model.name, noise(300), concurrency=8)
    start_by_hand(model, "hopeless")
    run = await eventually(lambda: ended(kube, "hopeless"), seconds=400, what="the end of the run")
    revision = kube.read("srev", run["status"]["revision"])
    recent = revision["spec"]["evaluation"]["recent"]
    message = condition(revision, "Rejected")["message"]
    assert (condition(run, "Complete")["status"], is_true(revision, "Rejected")) == ("True", True)
    assert f"{float(recent['incumbent']['mean']):.3f} without" in message
    assert f"{float(recent['candidate']['mean']):.3f} with" in message
    assert model.policy["spec"].get("speculators", []) == []
