"""Tools: how they are offered, what a model may then say, and how calls reach the client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bowsprit_engine.core.request import Request
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.prompts import PromptEncoder
from bowsprit_engine.server.tools import FORMATS, format_named, format_of, tool_use
from bowsprit_engine.server.wire import ChatBody
from scripted_engine import END, TEMPLATE, ScriptedEngine, byte_tokenizer
from server.running_server import RunningServer, Serve

SMOLLM2 = "{% if loop.first %}You are a helpful AI assistant named SmolLM, trained by Hugging Face{% endif %}"
QWEN = "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools> <tool_call>{% endif %}"
LLAMA = (
    '{% if tools is not none %}{"name": function name, "parameters": {}}{% endif %}<|start_header_id|>'  # its card's
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
NAMED = {"type": "function", "function": {"name": "now"}}


def saying(text: str) -> ScriptedEngine:
    return ScriptedEngine(answer=lambda request: [*text.encode(), END])


def allows(request: Request, text: str) -> bool:
    """Whether the request's grammar lets an answer be exactly this text."""
    assert request.grammar is not None
    state = request.grammar.begin()
    tokens = list(text.encode())
    if state.num_possible(tokens) != len(tokens):
        return False
    state.advance(tokens)
    return bool(state.mask()[END])


@pytest.mark.parametrize(
    ("template", "name"), [(SMOLLM2, "smollm2"), (QWEN, "hermes"), (LLAMA, "llama3_json"), (TEMPLATE, None)]
)
def test_a_template_tells_its_format(template: str, name: str | None) -> None:
    """By what it teaches its model to write."""
    found = format_of(template)
    assert (found.name if found else None) == name


def test_an_unknown_format_is_refused_with_the_known_names() -> None:
    """As given by --tool-format."""
    with pytest.raises(CallerError, match="no tool format 'xml', there are smollm2, hermes, llama3_json"):
        format_named("xml")
    assert format_named("hermes") is FORMATS["hermes"]


@pytest.mark.parametrize(
    ("form", "fields", "text", "expected"),
    [
        ("hermes", {"tool_choice": "required"}, f"<tool_call>\n{CALL}\n</tool_call>", True),
        ("hermes", {"tool_choice": "required"}, f"<tool_call>\n{CALL}\n</tool_call>\n" * 2, False),
        (
            "hermes",
            {"tool_choice": "required"},
            f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>",
            True,
        ),
        (
            "hermes",
            {"tool_choice": "required", "parallel_tool_calls": False},
            f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>",
            False,
        ),
        ("hermes", {"tool_choice": "required"}, "It is sunny.", False),
        ("hermes", {"tool_choice": "required"}, f"<tool_call>\n{CALL.replace('Oslo', 'C')}\n</tool_call>", True),
        ("hermes", {"tool_choice": "required"}, f"<tool_call>\n{CALL.replace('city', 'town')}\n</tool_call>", False),
        (
            "hermes",
            {"tool_choice": "required"},
            f'<tool_call>\n{CALL[:-2]}, "unit": "K"}}}}\n</tool_call>',
            False,
        ),
        (
            "hermes",
            {"tool_choice": "required"},
            f'<tool_call>\n{CALL[:-2]}, "more": 1}}}}\n</tool_call>',
            False,  # additionalProperties isn't said: closed
        ),
        ("hermes", {"tool_choice": NAMED}, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', True),
        ("hermes", {"tool_choice": NAMED}, f"<tool_call>\n{CALL}\n</tool_call>", False),
        ("hermes", {}, "It is <b>sunny</b>.", True),
        ("hermes", {}, f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>", True),
        ("hermes", {}, "<tool_call>\nno call\n</tool_call>", False),
        ("hermes", {}, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", True),
        ("hermes", {"parallel_tool_calls": False}, f"Well: <tool_call>\n{CALL}\n</tool_call>", True),
        ("hermes", {"parallel_tool_calls": False}, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>", False),
        ("smollm2", {"tool_choice": "required"}, f"<tool_call>[{CALL}, {CALL}]</tool_call>", True),
        ("smollm2", {"tool_choice": "required"}, "<tool_call>[]</tool_call>", False),
        ("smollm2", {}, "<tool_call>[]</tool_call>", True),
        (
            "llama3_json",
            {"tool_choice": "required"},
            CALL.replace("arguments", "parameters"),
            True,
        ),
        ("llama3_json", {"tool_choice": "required"}, CALL, False),
        ("hermes", {"response_format": {"type": "json_object"}}, '{"a": 1}', True),
        ("hermes", {"response_format": {"type": "json_object"}}, f"<tool_call>\n{CALL}\n</tool_call>", True),
        ("hermes", {"response_format": {"type": "json_object"}}, "It is sunny.", False),
    ],
)
async def test_an_answer_may_be_what_the_choice_allows(
    serve: Serve, form: str, fields: dict[str, Any], text: str, expected: bool
) -> None:
    """By the grammar that goes with the request to the engine."""
    server: RunningServer = await serve(template=TEMPLATE + QWEN, tool_format=form)
    await server.chat(tools=[WEATHER, NOW], **fields)
    (request,) = server.engine.requests
    assert allows(request, text) == expected


async def test_free_text_of_a_format_without_marker_has_no_grammar(serve: Serve) -> None:
    """Nothing tells a call from text there, before it is read."""
    server: RunningServer = await serve(template=TEMPLATE + QWEN, tool_format="llama3_json")
    await server.chat(tools=[WEATHER])
    assert server.engine.requests[0].grammar is None


async def test_a_call_is_told_as_openai_tells_it(serve: Serve) -> None:
    """Its own id, its arguments as text, no content, and finish_reason tool_calls."""
    engine = saying(
        f'<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
    )
    server: RunningServer = await serve(engine, template=TEMPLATE + QWEN)
    (choice,) = (await server.chat(tools=[WEATHER, NOW])).json()["choices"]
    message = choice["message"]
    ids = [call.pop("id") for call in message["tool_calls"]]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", None)
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}},
        {"type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    assert len(set(ids)) == 2
    assert all(name.startswith("call_") for name in ids)


async def test_a_stream_tells_a_call_bit_by_bit(serve: Serve) -> None:
    """First its id and name, then pieces of its arguments, last the reason."""
    server: RunningServer = await serve(saying(f"Hm. <tool_call>\n{CALL}\n</tool_call>"), template=TEMPLATE + QWEN)
    chunks = [chunk["choices"][0] for chunk in await server.stream(tools=[WEATHER])]
    deltas = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks) == "Hm."
    assert (deltas[0]["index"], deltas[0]["function"]) == (0, {"name": "get_weather", "arguments": ""})
    assert [set(delta) for delta in deltas[1:]] == [{"index", "function"}] * (len(deltas) - 1)
    assert json.loads("".join(delta["function"]["arguments"] for delta in deltas)) == {"city": "Oslo"}
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]


async def test_each_choice_has_its_own_calls(serve: Serve) -> None:
    """Two choices, two ids, interleaved in a stream."""
    server: RunningServer = await serve(saying(f"<tool_call>\n{CALL}\n</tool_call>"), template=TEMPLATE + QWEN)
    chunks = [chunk["choices"][0] for chunk in await server.stream(tools=[WEATHER], n=2)]
    names = {
        (chunk["index"], call["id"])
        for chunk in chunks
        for call in chunk["delta"].get("tool_calls", ())
        if "id" in call
    }
    assert sorted(index for index, _ in names) == [0, 1]
    assert len({name for _, name in names}) == 2


async def test_text_without_a_call_ends_as_it_always_does(serve: Serve) -> None:
    """finish_reason stop, and blanks at its end kept."""
    server: RunningServer = await serve(saying("It is sunny.\n"), template=TEMPLATE + QWEN)
    (choice,) = (await server.chat(tools=[WEATHER])).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "It is sunny.\n")
    assert "tool_calls" not in choice["message"]


async def test_an_answer_cut_off_within_a_call_says_length(serve: Serve) -> None:
    """With as much of the arguments as there is."""
    server: RunningServer = await serve(saying(f"<tool_call>\n{CALL}"), template=TEMPLATE + QWEN)
    (choice,) = (await server.chat(tools=[WEATHER], max_tokens=61)).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Os'


async def test_schemas_that_cannot_be_executed_are_refused_where_arguments_are_promised(serve: Serve) -> None:
    """With the tool and the place in its schema; a call that needn't be made is only read."""
    strange = {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
    }
    tools = [WEATHER, {"type": "function", "function": strange}]
    server: RunningServer = await serve(template=TEMPLATE + QWEN)
    refused = await server.chat(tools=tools, tool_choice="required")
    free = await server.chat(tools=tools)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "invalid_schema")
    assert error["param"] == "tools.1.function.parameters.properties.a"
    assert "uniqueItems" in error["message"]
    assert (free.status_code, server.engine.requests[0].grammar) == (200, None)


def test_a_template_without_tools_gets_the_formats_own_prompt() -> None:
    """Before the user's own system message; earlier calls are written as the model writes them."""
    tokenizer = byte_tokenizer()
    prompts = PromptEncoder(tokenizer, max_model_len=4096, tool_format="smollm2")
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
    ]
    body = ChatBody.model_validate({"model": "m", "messages": messages, "tools": [NOW]})
    text = tokenizer.decode(prompts.chat(body, tool_use(body, prompts.tool_format)))
    assert '<tools>[{"name": "now"}]</tools>' in text
    assert text.index("</tools>") < text.index("Be brief.") < text.index("What time is it?")
    assert 'assistant:<tool_call>[{"name": "now", "arguments": {}}]</tool_call>\n' in text


def test_earlier_calls_are_written_where_no_tools_are_offered_any_more() -> None:
    """A template that knows nothing of calls drops none in silence."""
    tokenizer = byte_tokenizer()
    prompts = PromptEncoder(tokenizer, max_model_len=4096, tool_format="smollm2")
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
    ]
    body = ChatBody.model_validate({"model": "m", "messages": messages})
    text = tokenizer.decode(prompts.chat(body))
    assert 'assistant:<tool_call>[{"name": "now", "arguments": {}}]</tool_call>\n' in text


@pytest.mark.parametrize(
    "call",
    [{}, {"function": "now"}, {"function": {"name": "now", "arguments": "{"}}, {"function": {"arguments": "{}"}}],
)
async def test_calls_that_come_back_broken_are_refused(serve: Serve, call: dict[str, Any]) -> None:
    """Naming the message that has them."""
    server: RunningServer = await serve()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    answer = await server.chat(messages=messages)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1.tool_calls")


async def test_a_template_reads_arguments_as_an_object(serve: Serve) -> None:
    """Clients send them back as text."""
    template = "{% for c in messages[0].tool_calls %}{{ c.function.arguments.city }}{% endfor %}"
    server: RunningServer = await serve(template=template)
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    await server.chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert bytes(server.engine.requests[0].prompt_token_ids) == b"Oslo"
