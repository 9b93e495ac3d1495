"""The OpenAI surface over a real engine, asked for anything: answers and refusals, never a 5xx, nothing left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.server import openapi
from bowsprit_engine.server.wire import ChatBody, CompletionBody
from bowsprit_engine.speculation import profile
from server.live_engine import BATCH, MAX_MODEL_LEN, POISON, live_engine, tiny_runner
from server.running_server import RunningServer, Serve
from server.test_body_fuzz import bodies

TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchRunner]:
    folder = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWSPRIT_CACHE_DIR", str(folder / "cache"))
        patch.setattr(profile, "SECONDS_BOUND", 0.1)
        yield tiny_runner(folder / "model")


@pytest.fixture
async def live(serve: Serve, runner: TorchRunner) -> AsyncIterator[RunningServer]:
    """A server whose engine must be idle, with all its blocks free, when the test ends."""
    engine = live_engine(runner)
    served = {"max_model_len": MAX_MODEL_LEN, "template": TEMPLATE, "tool_format": "hermes"}
    server: RunningServer = await serve(engine, **served)
    assert engine.wait_ready(60)
    yield server
    await all_is_free(server, engine)


async def all_is_free(server: RunningServer, engine: Engine) -> None:
    """Every earlier request has left: as many full sequences as the cache holds run to their ends, and then nothing."""
    prompt = [65] * (MAX_MODEL_LEN - 16)
    answers = await asyncio.gather(
        *(server.complete(prompt, max_tokens=16, ignore_eos=True, seed=seed) for seed in range(2))
    )
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [16, 16]
    stats = engine.stats()
    assert (stats.requests_running, stats.requests_waiting) == (0, 0)


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """What a strategy draws, the same in every run."""
    drawn: list[Any] = []
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    fixed = settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=health)
    collect: Callable[[], None] = fixed(given(strategy)(lambda value: drawn.append(value)))
    collect()
    return drawn


async def send(server: RunningServer, path: str, body: Any) -> int:
    """The status; a stream was read to its end."""
    content = json.dumps({"model": "scripted", **body}).encode("utf-8", "surrogatepass")
    answer = await server.client.post(path, content=content)
    if answer.status_code == 200 and "data: " in answer.text[:6]:
        assert answer.text.endswith("data: [DONE]\n\n")
    elif answer.status_code != 200:
        error = answer.json()["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
    return int(answer.status_code)


async def test_likely_bodies_are_answered_or_refused(live: RunningServer) -> None:
    """Known fields with likely, numeric or arbitrary values, those of structured output and tools among them."""
    statuses = set()
    for body in examples(bodies(), 40):
        for path, other in (("/v1/chat/completions", "prompt"), ("/v1/completions", "messages")):
            kept = {"max_tokens": 12, **{key: value for key, value in body.items() if key != other}}
            status = await send(live, path, kept)
            assert status in (200, 400), kept
            statuses.add(status)
    assert statuses == {200, 400}


async def test_bodies_of_the_published_schema_are_answered_or_refused(live: RunningServer) -> None:
    """schemathesis draws them from /openapi.json; what a schema can't say is a 400. Most fields are answered in some.

    Each drawn field goes beside a plain text, and so does the drawn text alone: of whole bodies nearly all are refused
    for one field or for an empty prompt, and tell nothing of the others.
    """
    published = (await live.client.get("/openapi.json")).json()
    assert published == openapi.document(version=published["info"]["version"])
    api = schemathesis.openapi.from_dict(published)
    plain = {"messages": [{"role": "user", "content": "abc"}], "prompt": "abc"}
    for path, text, kind in (
        ("/v1/chat/completions", "messages", ChatBody),
        ("/v1/completions", "prompt", CompletionBody),
    ):
        answered: set[str] = set()
        for body in examples(api[path]["POST"].as_strategy().map(lambda case: case.body), 12):
            options = [name for name in body if name not in ("model", text)]
            for asked in ({text: body[text]}, *({text: plain[text], name: body[name]} for name in options)):
                status = await send(live, path, {"max_tokens": 4, "n": 1, **asked})
                assert status in (200, 400), asked
                answered.update(asked if status == 200 else ())
        assert len(answered) > len(kind.model_fields) / 2


async def test_prompts_of_every_length_at_the_edges(live: RunningServer) -> None:
    """0, 1, the longest that leaves room for one token, the context, and one more."""
    lengths = (0, 1, MAX_MODEL_LEN - 1, MAX_MODEL_LEN, MAX_MODEL_LEN + 1)
    answers = [await live.complete([65] * length, ignore_eos=True) for length in lengths]
    assert [answer.status_code for answer in answers] == [400, 200, 200, 400, 400]
    assert [answers[i].json()["usage"]["completion_tokens"] for i in (1, 2)] == [16, 1]
    assert [answers[i].json()["error"]["code"] for i in (3, 4)] == ["context_length_exceeded"] * 2


async def test_clients_that_vanish_give_their_blocks_back(live: RunningServer) -> None:
    """More streams than the batch holds, left after their first chunk or before it; what comes after them runs."""
    body = {"model": "scripted", "prompt": "abc", "stream": True, "n": 2, "max_tokens": 90, "ignore_eos": True}

    async def leave(number: int) -> None:
        async with live.client.stream("POST", "/v1/completions", json={**body, "seed": number}) as answer:
            if number % 2:
                await anext(answer.aiter_bytes())

    await asyncio.gather(*(leave(number) for number in range(2 * BATCH)))


async def test_logits_that_are_not_finite_cost_their_own_request(live: RunningServer) -> None:
    """An error with its reason and a counter; neighbours in the same steps are answered."""
    bad, *good = await asyncio.gather(
        live.complete([65, 66, POISON], max_tokens=8),
        *(live.complete([65, 66, 67], max_tokens=8, ignore_eos=True) for _ in range(3)),
    )
    metrics = (await live.control.get("/metrics")).text
    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "EngineFailure")
    assert "not finite" in bad.json()["error"]["message"]
    assert [answer.status_code for answer in good] == [200, 200, 200]
    failed = 'bowsprit:request_success_total{engine="0",finished_reason="error",model_name="scripted"}'
    corrupted = 'bowsprit:corrupted_requests_total{engine="0",model_name="scripted"}'
    assert (f"{failed} 1.0" in metrics, f"{corrupted} 1.0" in metrics) == (True, True)


async def test_streams_of_several_choices_beyond_the_batch_all_end(live: RunningServer) -> None:
    """Four streams of three choices in a batch of eight, preempted for want of blocks: each choice in full."""

    async def lengths(seed: int) -> dict[int, int]:
        body = {"model": "scripted", "prompt": "abc", "n": 3, "max_tokens": 12, "ignore_eos": True, "seed": seed}
        answer = await live.client.post("/v1/completions", json={**body, "stream": True, "logprobs": 0})
        counts: dict[int, int] = {}
        for line in answer.text.split("\n\n"):
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                if choice["logprobs"]:
                    counts[choice["index"]] = counts.get(choice["index"], 0) + len(choice["logprobs"]["tokens"])
        return counts

    told = await asyncio.gather(*(lengths(seed) for seed in range(4)))
    assert told == [dict.fromkeys(range(3), 12)] * 4
