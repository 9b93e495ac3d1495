"""What a client gets for a bad request: an OpenAI-shaped error that names the field, the value and the limit."""

from __future__ import annotations

from typing import Any

import pytest

from scripted_engine import TEMPLATE, ScriptedEngine
from server.running_server import Serve

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}

JSON = {"type": "json_object"}
SCHEMA = "response_format.json_schema.schema"


def schema(definition: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": definition}}}


def named(function: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": function}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": 3}, "temperature", ("3", "less than or equal to 2")),
        ({"temperature": "hot"}, "temperature", ("hot", "number")),
        ({"top_p": 0}, "top_p", ("greater than 0",)),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", ("1e-300", "0.01")),
        ({"n": 0}, "n", ("0", "greater than or equal to 1")),
        ({"n": 1000}, "n", ("1000", "128")),
        ({"max_tokens": -5}, "max_tokens", ("-5", "1")),
        ({"max_tokens": 5000}, "max_tokens", ("5000", "492", "512")),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", ("5000", "492")),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", ("9", "5")),
        ({"stop": ["x"] * 17}, "stop", ("16",)),
        ({"seed": 2**70}, "seed", ("18446744073709551616",)),
        ({"logit_bias": {"cat": 1}}, "logit_bias", ("cat",)),
        ({"logit_bias": {"999": 1}}, "logit_bias", ("999", "258")),
        ({"logit_bias": {"9": 101}}, "logit_bias.9", ("101", "100")),
        ({"top_logprobs": 3}, "top_logprobs", ("3", "logprobs")),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", ("21", "20")),
        ({"messages": []}, "messages", ("at least 1",)),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", ("wizard", "user")),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "messages", ("618", "512")),
        (IMAGE, "messages.0.content.0.type", ("image_url", "'text'")),
        ({"response_format": {"type": "xml"}}, "response_format.type", ("xml", "json_schema")),
        ({"response_format": {"type": "json_schema"}}, "response_format", ("json_schema is needed",)),
        ({"tools": [TOOL]}, "tools", ("chat template", "smollm2, hermes, llama3_json")),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name", ("'f'", "twice")),
        ({"tool_choice": "required"}, "tool_choice", ("none",)),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", ("maybe", "required")),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function", ("missing",)),
        ({"tools": [TOOL], "tool_choice": named("g")}, "tool_choice", ("'g'", "'f'")),
        ({"structured_outputs": {}}, "structured_outputs", ("exactly one", "0")),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", ("exactly one", "2")),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", ("unclosed group",)),
        ({"structured_outputs": {"regex": "((a{90}){90}b)*"}}, "structured_outputs.regex", ("8101", "2000")),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", ("not JSON",)),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", ("doesn't know",)),
        ({"structured_outputs": {"regex": "a"}, "response_format": JSON}, "structured_outputs", ("combined",)),
        ({"response_format": JSON, "ignore_eos": True}, "ignore_eos", ("combined",)),
        (schema({"type": "objct"}), SCHEMA, ("Invalid type: objct",)),
        (schema({"properties": {"a": {"items": {"not": {}}}}}), f"{SCHEMA}.properties.a.items", ("not",)),
        (schema({"$defs": {"x": {"type": 3}}, "$ref": "#/$defs/x"}), f"{SCHEMA}.$defs.x", ("type",)),
        (schema({"$ref": "#/$defs/y"}), SCHEMA, ("/$defs/y", "does not exist")),
        (schema({"pattern": "(a{99}){99}"}), SCHEMA, ("9801", "2000")),
        (schema({"enum": ["x" * 70_000]}), SCHEMA, ("65536",)),
        (schema({"pattern": "[" * 5000}), SCHEMA, ("5000", "4096")),
        (
            {"structured_outputs": {"json": '{"not":' * 900 + "1" + "}" * 900}},
            "structured_outputs.json",
            ("recursion",),
        ),
        ({"speculation": {"mode": "fast"}}, "speculation.mode", ("fast", "auto")),
        ({"speculation": {"max_draft_tokens": -1}}, "speculation.max_draft_tokens", ("-1", "0")),
        ({"speculation": {"drafter": "nobody"}}, "speculation.drafter", ("nobody",)),
        ({"temprature": 1}, "temprature", ("doesn't know",)),
    ],
)
async def test_a_bad_field_is_a_400_that_names_it(
    serve: Serve, fields: dict[str, Any], param: str, words: tuple[str, ...]
) -> None:
    """Nothing is submitted to the engine for it."""
    server = await serve()
    answer = await server.chat("Hi", **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert [word for word in words if word not in error["message"]] == []
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "the least is 1 token"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [1, 9999]}, "prompt", "9999"),
        ({"prompt": [1, -1]}, "prompt.1", "-1"),
        ({"prompt": [1, "a"]}, "prompt.1", "valid integer"),
        ({"prompt": [[1, 2], ["a"]]}, "prompt.1.0", "valid integer"),
        ({"prompt": {"text": "x"}}, "prompt", "valid string"),
        ({"echo": True}, "echo", "True"),
        ({"suffix": "x"}, "suffix", "x"),
        ({"best_of": 2}, "best_of", "2"),
        ({"prompt": ["a"] * 20, "n": 20}, "n", "128"),
    ],
)
async def test_a_bad_field_of_a_text_completion_is_named_too(
    serve: Serve, fields: dict[str, Any], param: str, words: str
) -> None:
    """Fields that would change the answer are refused where they aren't executed."""
    server = await serve()
    answer = await server.complete(**fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


async def test_a_body_that_is_no_json_is_a_400(serve: Serve) -> None:
    """Lone surrogates too, which no text can hold."""
    server = await serve()
    for content in (b"", b"{", b"\xff", b'{"model": "\\ud800"}', b"[]"):
        answer = await server.client.post("/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_an_unknown_model_is_a_404_that_names_the_known_one(serve: Serve) -> None:
    """In a body and in a path."""
    server = await serve()
    for answer in (await server.chat(model="gpt-7"), await server.client.get("/v1/models/gpt-7")):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "scripted" in error["message"]


async def test_unknown_paths_and_methods_are_answered_in_the_same_shape(serve: Serve) -> None:
    """404 and 405; a slash too many isn't redirected, which behind TLS would send keys to http://."""
    server = await serve()
    lost = [await server.client.get("/v2/chat"), await server.client.post("/v1/completions/", json={})]
    wrong = await server.client.get("/v1/completions")
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in lost] == [(404, "not_found")] * 2
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_a_body_over_the_limit_is_a_413(serve: Serve) -> None:
    """By its declared length, and by its real one when none is declared."""
    server = await serve(max_body_bytes=1000)

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    declared = await server.client.post("/v1/completions", content=b" " * 2000)
    streamed = await server.client.post("/v1/completions", content=chunks())
    assert [declared.status_code, streamed.status_code] == [413, 413]
    assert "1000" in declared.json()["error"]["message"]


async def test_before_the_model_is_loaded_callers_are_asked_to_come_back(serve: Serve) -> None:
    """503 with Retry-After and the stage."""
    server = await serve(is_loaded=False)
    answer = await server.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "loading the model" in answer.json()["error"]["message"]


async def test_while_draining_new_requests_get_503_and_running_ones_finish(serve: Serve) -> None:
    """And the connection is closed, so that the next attempt finds another pod."""
    engine = ScriptedEngine(answer=lambda request: b"to the end", step_tokens=2)
    engine.gate.clear()
    server = await serve(engine)
    async with server.client.stream(
        "POST",
        "/v1/completions",
        json={"model": "scripted", "prompt": "x", "stream": True},
    ) as running:
        server.lifecycle.begin_drain()
        refused = await server.chat()
        engine.gate.set()
        text = (await running.aread()).decode()
    assert (refused.status_code, refused.headers["retry-after"], refused.headers["connection"]) == (503, "1", "close")
    assert text.count('"finish_reason":"length"') == 1
    assert "Draining" in refused.text


async def test_tools_are_offered_by_a_template_that_can(serve: Serve) -> None:
    """And left out with tool_choice none, by any template."""
    template = TEMPLATE + "{% if tools %}{{ tools[0].function.name }}{% endif %}"
    server = await serve(template=template, tool_format="hermes")
    await server.chat(tools=[TOOL])
    await server.chat(tools=[TOOL], tool_choice="none")
    ends = [bytes(token for token in r.prompt_token_ids if token < 256)[-2:] for r in server.engine.requests]
    assert ends == [b":f", b"t:"]


async def test_what_a_template_refuses_is_a_400_in_its_own_words(serve: Serve) -> None:
    """Templates raise on orders of roles that their model wasn't trained on."""
    server = await serve(template="{{ raise_exception('roles must alternate') }}")
    answer = await server.chat()
    assert answer.status_code == 400
    assert "roles must alternate" in answer.json()["error"]["message"]


async def test_an_unexpected_failure_is_a_500_that_tells_nothing_of_the_inside(serve: Serve) -> None:
    """But for the request's id, by which the log is searched."""
    server = await serve()
    del server.engine.requests
    answer = await server.client.post(
        "/v1/completions", json={"model": "scripted", "prompt": "x"}, headers={"x-request-id": "mine"}
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    assert answer.json()["error"]["message"] == "internal error"


async def test_of_several_choices_none_runs_when_one_is_refused(serve: Serve) -> None:
    """What was submitted before is cancelled."""
    server = await serve()
    answer = await server.complete(["a", "b"], n=2, speculation={"drafter": "nobody"})
    assert answer.status_code == 400
    assert server.engine.requests == []
