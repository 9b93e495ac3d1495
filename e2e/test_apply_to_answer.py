"""From `kubectl apply` to answers: an unmodified client, the same text whatever is drafted, kubectl's own verbs."""

from __future__ import annotations

import httpx
import openai
import pytest
import yaml

from kube import condition, eventually
from served_model import CONTROL_PORT, ServedModel
from traffic import Prompt, ask, ask_streaming

REPETITIVE = ({"role": "user", "content": "Repeat the word 'anchor' forty times."},)
STORY = ({"role": "user", "content": "Tell a short story about a sailor and a lighthouse."},)


async def test_an_unmodified_client_chats(smollm2: ServedModel) -> None:
    """The answer has text, a finish reason, usage, and vLLM's figures of its speculation."""
    async with smollm2.client() as client:
        answer = await ask(client, smollm2.name, Prompt(messages=REPETITIVE, max_tokens=48))
    assert answer.text.strip() != ""
    assert answer.finish_reason in {"stop", "length"}
    assert 0 < answer.tokens <= 48
    assert answer.acceptance_length is not None


async def test_a_stream_says_what_the_whole_answer_says(smollm2: ServedModel) -> None:
    """The pieces of a streamed answer are the text of the same request asked at once."""
    prompt = Prompt(messages=REPETITIVE, max_tokens=48)
    async with smollm2.client() as client:
        whole = await ask(client, smollm2.name, prompt)
        streamed = await ask_streaming(client, smollm2.name, prompt)
    assert (streamed.error, streamed.text, streamed.finish_reason) == (None, whole.text, whole.finish_reason)


async def test_the_model_is_listed_by_its_name(smollm2: ServedModel) -> None:
    """GET /v1/models, as clients discover it."""
    async with smollm2.client() as client:
        listed = [model.id async for model in client.models.list()]
    assert listed == [smollm2.name]


@pytest.mark.parametrize(
    ("temperature", "messages"),
    [(0.0, REPETITIVE), (0.0, STORY), (0.8, REPETITIVE), (0.8, STORY)],
    ids=["greedy, repetitive", "greedy, prose", "sampled, repetitive", "sampled, prose"],
)
async def test_speculation_changes_no_token(
    smollm2: ServedModel, temperature: float, messages: tuple[dict[str, str], ...]
) -> None:
    """One function of seed and logits: with speculation and without it the text is the same."""
    prompt = Prompt(messages=messages, max_tokens=96, temperature=temperature, seed=7)
    async with smollm2.client() as client:
        plain = await ask(client, smollm2.name, prompt, is_speculative=False)
        speculative = await ask(client, smollm2.name, prompt, is_speculative=True)
    assert plain.drafted == 0
    assert (speculative.text, speculative.tokens) == (plain.text, plain.tokens)


async def test_drafts_are_accepted_where_text_repeats(smollm2: ServedModel) -> None:
    """The equality above would be empty if nothing were drafted."""
    prompt = Prompt(messages=REPETITIVE, max_tokens=96)
    async with smollm2.client() as client:
        answer = await ask(client, smollm2.name, prompt)
    assert answer.accepted > 0


async def test_a_bad_request_is_told_field_value_and_limit(smollm2: ServedModel) -> None:
    """OpenAI-shaped 400 that a client library turns into its own error."""
    async with smollm2.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model=smollm2.name,
                messages=[{"role": "user", "content": "hello"}],
                temperature=-1,
            )
    body = refused.value.body
    assert isinstance(body, dict)
    assert (body["param"], "-1" in body["message"], "0" in body["message"]) == ("temperature", True, True)


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer not-a-token"}], ids=["no token", "a wrong one"])
async def test_a_control_call_without_the_right_token_gets_401(smollm2: ServedModel, header: dict[str, str]) -> None:
    """Whoever reaches the control port in spite of the NetworkPolicy still can't steer a pod."""
    pod = smollm2.pods[0]
    with smollm2.kube.cluster.forward(pod["status"]["podIP"], CONTROL_PORT) as port:
        async with httpx.AsyncClient(trust_env=False) as client:
            read = await client.get(f"http://127.0.0.1:{port}/control/v1/stats", headers=header)
            write = await client.put(
                f"http://127.0.0.1:{port}/control/v1/policy", headers=header, json={"revision": 99, "table": []}
            )
    assert (read.status_code, write.status_code) == (401, 401)


async def test_a_token_of_another_account_gets_401(smollm2: ServedModel) -> None:
    """Any pod can have a token of that audience; only the operator's subject may steer."""
    token = smollm2.kube.run("create", "token", "default", "--audience=bowsprit-engine").strip()
    pod = smollm2.pods[0]
    with smollm2.kube.cluster.forward(pod["status"]["podIP"], CONTROL_PORT) as port:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"http://127.0.0.1:{port}/control/v1/stats", headers={"Authorization": f"Bearer {token}"}
            )
    assert answer.status_code == 401


def test_kubectl_explains_the_fields(smollm2: ServedModel) -> None:
    """Every field has a description where users look for it."""
    told = smollm2.kube.run("explain", "smodel.spec.speculation")
    assert "fixedDraftTokens" in told
    assert "How to speculate" in told


def test_the_controller_writes_nothing_of_the_users(smollm2: ServedModel) -> None:
    """managedFields of the SpeculativeModel: the operator is in status alone."""
    found = smollm2.kube.run("get", "smodel", smollm2.name, "--output=yaml", "--show-managed-fields")
    entries = yaml.safe_load(found)["metadata"]["managedFields"]
    ours = [entry for entry in entries if entry["manager"].startswith("bowsprit")]
    assert [set(entry["fieldsV1"]) for entry in ours] == [{"f:status"}] * len(ours)
    assert ours != []


async def test_kubectl_scale_adds_a_pod_that_gets_the_table(smollm2: ServedModel) -> None:
    """`kubectl scale smodel/… --replicas=2`: a second Ready pod, with the policy pushed to it; and back to one."""
    smollm2.kube.run("scale", f"smodel/{smollm2.name}", "--replicas=2")
    await eventually(
        lambda: len(smollm2.pods) == 2 and smollm2.has_everybody_acknowledged(), seconds=120, what="a second pod"
    )
    ready = smollm2.resource["status"]["readyReplicas"]
    smollm2.kube.run("scale", f"smodel/{smollm2.name}", "--replicas=1")
    await eventually(lambda: smollm2.resource["status"].get("readyReplicas") == 1, seconds=120, what="one pod again")
    assert (ready, condition(smollm2.resource, "Ready")["status"]) == (2, "True")
