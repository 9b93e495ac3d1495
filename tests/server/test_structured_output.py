"""The form of an answer: what may be written, and what a client is told when it can't be."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from bowsprit_engine.core.grammar import FAILED, GrammarCompiler
from bowsprit_engine.core.request import FinishReason, StepOutput
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.expressions import size_of
from bowsprit_engine.server.grammars import MAX_INSIDE, Grammars
from bowsprit_engine.server.schemas import MAX_TRIAL_SECONDS, Schema, Search, closed
from bowsprit_engine.server.structured import json_structure
from scripted_engine import TEMPLATE, VOCAB_SIZE, ScriptedEngine, byte_tokenizer
from server.running_server import RunningServer, Serve
from server.test_tools import allows

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "tag": {"type": "string", "maxLength": 3}}}


def schema(definition: dict[str, Any] | None) -> dict[str, Any]:
    inner = {"name": "answer"} if definition is None else {"name": "answer", "schema": definition, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        (schema(POINT | {"required": ["x"]}), '{"x": -12, "tag": "abc"}', True),
        (schema(POINT | {"required": ["x"]}), '{"tag": "abc"}', False),
        (schema(POINT), '{"x": 1.5}', False),
        (schema(POINT), '{"tag": "abcd"}', False),
        (schema(POINT), '{"x": 1, "other": true}', True),  # as the schema says: others are allowed
        (schema(POINT | {"additionalProperties": False}), '{"x": 1, "other": true}', False),
        (schema(POINT), '{\n  "x": 1\n}', False),  # one way to write a value
        (schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"type": "null"}}}}), "[null]", True),
        (schema({"type": "string", "pattern": "^[ab]+$"}), '"abba"', True),
        (schema({"anyOf": [{"type": "integer"}, {"enum": ["é"]}]}), '"é"', True),
        (schema(None), '{"anything": []}', True),
        ({"response_format": {"type": "json_object"}}, '{"a": {"b": [1, 2.5e3, null, "\\n"]}}', True),
        ({"response_format": {"type": "json_object"}}, "[1]", False),
        ({"structured_outputs": {"json": POINT}}, '{"x": 1}', True),
        ({"structured_outputs": {"json": '{"type": "boolean"}'}}, "true", True),
        ({"structured_outputs": {"regex": r"\d{3}-[a-z]+"}}, "123-abc", True),
        ({"structured_outputs": {"regex": r"\d{3}-[a-z]+"}}, "123-", False),
        ({"structured_outputs": {"choice": ["yes", 'no, "never"', "não"]}}, 'no, "never"', True),
        ({"structured_outputs": {"choice": ["yes", "não"]}}, "não", True),
        ({"structured_outputs": {"choice": ["yes", "não"]}}, "maybe", False),
        ({"structured_outputs": {"json_object": True}}, "{}", True),
    ],
)
async def test_an_answer_may_be_what_its_form_allows(
    serve: Serve, fields: dict[str, Any], text: str, expected: bool
) -> None:
    """By the grammar that goes with the request to the engine; vLLM's extension holds for text completions too."""
    server: RunningServer = await serve()
    await server.chat(**fields)
    if "structured_outputs" in fields:
        await server.complete(**fields)
    assert [allows(request, text) for request in server.engine.requests] == [expected] * len(server.engine.requests)
    assert len(server.engine.requests) == 1 + ("structured_outputs" in fields)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"response_format": None}])
async def test_free_text_has_no_grammar(serve: Serve, fields: dict[str, Any]) -> None:
    """And costs nothing."""
    server: RunningServer = await serve()
    await server.chat(**fields)
    assert server.engine.requests[0].grammar is None


class FailingGrammar(ScriptedEngine):
    """Ends every request as the engine does when a grammar asks for too much."""

    def submit(self, request: Any) -> None:
        request.on_output(
            StepOutput(
                request_id=request.request_id,
                token_ids=(),
                finish_reason=FinishReason.ERROR,
                error="lexer error: too many states",
                error_code=FAILED,
            )
        )


async def test_a_form_that_turns_out_too_complex_is_the_callers_fault(serve: Serve) -> None:
    """A 400, or an event of that kind in a stream that has begun."""
    server: RunningServer = await serve(FailingGrammar())
    whole = await server.chat(response_format={"type": "json_object"})
    chunks = await server.stream(response_format={"type": "json_object"})
    assert (whole.status_code, whole.json()["error"]["code"]) == (400, "grammar_failed")
    assert "too many states" in whole.json()["error"]["message"]
    assert (chunks[-1]["error"]["type"], chunks[-1]["error"]["code"]) == ("invalid_request_error", "grammar_failed")


@pytest.mark.parametrize(("ends", "words"), [([], "no end token"), ([999], "no end token")])
async def test_a_model_that_cannot_end_a_form_refuses_all(ends: list[int], words: str) -> None:
    """The reason is the model's, said with the field."""
    grammars = Grammars(byte_tokenizer(), vocab_size=VOCAB_SIZE, eos_token_ids=ends)
    with pytest.raises(CallerError, match=words) as refusal:
        await grammars.compile(lambda: json_structure({}, param="response_format"))
    assert refusal.value.param == "response_format"


async def test_a_tokenizer_that_the_library_cannot_read_costs_structured_output_only() -> None:
    """The model is served, and says why it can't do this."""
    grammars = Grammars(object(), vocab_size=VOCAB_SIZE, eos_token_ids=[1])
    with pytest.raises(CallerError, match="tokenizer can't be read"):
        await grammars.compile(lambda: json_structure({}, param="response_format"))


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{10}", 10),
        ("(ab){10}c", 21),
        ("((a{3}b){2,5}c)*", 21),
        (r"[^\]a-z]{4,}\{9}", 7),
        (r"(\(|[()]){7}", 14),
        ("a{2}{3}", 6),
        ("(((", 0),
        ("a{9}", 9),
        (")b{2}", 3),
        ("(.{0000001000}){ 1000 }", 1_000_000),
        ("(a{ 2 , 00000000000003 }b){\t2,}", 8),
        ("(.{100}[[a])]){100}", 10_100),  # a class in a class, whose end is no group's
        ("([^])](a{10})[\\])]){10}", 120),
        ("((a{999999999}){999999999}){999999999}", 10**9),
        ("a{" + "9" * 4000 + "}", 10**9),
    ],
)
def test_the_size_of_an_expression_is_what_its_repetitions_make(pattern: str, size: int) -> None:
    """Counted before anything is built."""
    assert size_of(pattern, is_anchored=True).num_positions == size


@pytest.mark.parametrize(
    ("pattern", "is_anchored", "num_open"),
    [
        ("a{40}", True, 0),
        ("a{40}", False, 40),  # of a schema: it may begin anywhere
        ("^a{1,40}$", False, 0),  # the text is at one place of it
        ("^a{1,40}b{5}$", False, 5),
        ("(.*a.{8}b)*", True, 11),
        ("(ab|cd){30}e{5}", True, 30),  # one more for each branch; branches of one length
        ("(?:a|cd){30}e{5}", True, 95),
        ("^(a?){40}$", False, 40),
        ("^a|b{9}", False, 10),
        ("^a|^b{9}", False, 1),
        ("a{1,40}?b", True, 1),
        ("(?P<year>[0-9]{4})-[0-9]{2}", True, 0),
    ],
)
def test_what_comes_behind_something_of_no_fixed_length_is_open(pattern: str, is_anchored: bool, num_open: int) -> None:
    """A text may be at many of its places at once, and each costs something for every token."""
    assert size_of(pattern, is_anchored=is_anchored).num_open == num_open


@pytest.mark.parametrize(
    ("definition", "is_costly"),
    [
        ({"type": "string", "pattern": "^[a-z ]{1,500}$"}, False),
        ({"type": "string", "pattern": "[a-z ]{1,500}"}, True),
        ({"properties": {f"p{i}": {"pattern": "[A-Z]{9}"} for i in range(4)}}, True),
        ({"type": "string", "maxLength": 500}, False),
    ],
)
async def test_a_grammar_is_costly_by_all_its_expressions(
    serve: Serve, definition: dict[str, Any], is_costly: bool
) -> None:
    """In a form and in tools."""
    server: RunningServer = await serve(template=OFFERS, tool_format="hermes")
    await server.chat(**schema(definition))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": definition}}}}
    await server.chat(tools=[tool], tool_choice="required")
    await server.chat(tools=[tool], **schema({"type": "object"}))
    grammars = [request.grammar for request in server.engine.requests]
    assert [grammar.is_costly for grammar in grammars if grammar] == [is_costly] * 3


@pytest.mark.parametrize(
    "definition",
    [
        {"$ref": "#/x-mine/0/deep", "x-mine": [{"deep": {"pattern": "(a{60}){60}"}}]},
        {"properties": {f"p{i}": {"pattern": "^.{100}$"} for i in range(30)}},
        {"patternProperties": {f"^{i}[a-z]{{100}}$": {"type": "string"} for i in range(30)}},
        {"type": "string", "pattern": "(?x) (a{60}) {60}"},
        {"type": "string", "pattern": r"\\(?i-x:a)"},
    ],
)
def test_regular_expressions_of_a_schema_are_limited_wherever_they_stand(definition: dict[str, Any]) -> None:
    """By their sum, and in places that only a reference makes schemas."""
    with pytest.raises(CallerError, match="regular expression") as refusal:
        json_structure(definition, param="response_format")
    assert refusal.value.param == "response_format"


def test_a_parenthesis_that_is_a_character_begins_no_flag() -> None:
    """`x` may follow an optional one."""
    assert json_structure({"type": "string", "pattern": r"^\(?x$"}, param="p").param == "p"


def test_the_search_for_the_refused_part_ends_in_time() -> None:
    """With the parts that it found until then."""
    seconds = itertools.count(step=MAX_TRIAL_SECONDS / 2.5)
    asked: list[Schema] = []

    def why_not(schema: Schema) -> str | None:
        asked.append(schema)
        return "no"

    search = Search(why_not, clock=lambda: next(seconds))
    assert search.place({"items": {"items": {"items": {"items": {"items": {}}}}}}, "no") == "items.items"
    assert len(asked) == 2


async def test_grammars_that_wait_are_limited_in_number(serve: Serve) -> None:
    """One more is a 429 that may come back; once they are done there is room again."""
    server: RunningServer = await serve()
    go_on = threading.Event()

    def wait() -> None:
        go_on.wait()

    assert server.lifecycle.served
    grammars = server.lifecycle.served.grammars
    waiting = [asyncio.create_task(grammars.compile(wait)) for _ in range(MAX_INSIDE)]
    await asyncio.sleep(0)  # each has begun
    refused = await server.chat(response_format={"type": "json_object"})
    free = await server.chat()
    go_on.set()
    await asyncio.gather(*waiting)
    answered = await server.chat(response_format={"type": "json_object"})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert (refused.json()["error"]["code"], free.status_code, answered.status_code) == ("Overloaded", 200, 200)


TOOLS = [
    {"type": "function", "function": {"name": f"f{i}", "parameters": {"properties": {"a": {"enum": ["x" * 9000]}}}}}
    for i in range(8)
]

OFFERS = TEMPLATE + "{% if tools %}{{ tools[0].function.name }}{% endif %}"


async def test_the_schemas_of_all_tools_together_are_limited_before_any_is_compiled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where calls needn't be made, they are free then."""
    sources: list[str] = []
    server: RunningServer = await serve(template=OFFERS, tool_format="hermes")
    monkeypatch.setattr(GrammarCompiler, "compile", lambda self, source, **_: sources.append(source))
    refused = await server.chat(tools=TOOLS, tool_choice="required")
    assert (refused.status_code, refused.json()["error"]["param"], sources) == (400, "tools", [])
    assert "65536" in refused.json()["error"]["message"]


async def test_no_place_is_searched_for_a_refusal_that_nobody_reads(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that needn't be made is not held to a schema that can't be executed: one trial tells."""
    sources: list[str] = []

    def refuse(self: GrammarCompiler, source: str, *, is_costly: bool = False) -> None:
        sources.append(source)
        raise CallerError("no")

    server: RunningServer = await serve(template=OFFERS, tool_format="hermes")
    monkeypatch.setattr(GrammarCompiler, "compile", refuse)
    await server.chat(tools=TOOLS[:3])
    assert (len(sources), server.engine.requests[0].grammar) == (1, None)


def test_objects_of_arguments_are_closed_but_where_they_say_otherwise() -> None:
    """However deep; a property may have a keyword's name; parts of allOf see each other's properties."""
    inner = {"type": "object", "properties": {"properties": {"type": "string"}}}
    opened = {"type": "object", "properties": {}, "additionalProperties": True}
    merged = {"allOf": [inner, {"properties": {"a": {}}}]}
    asked = {"properties": {"list": {"items": inner}, "map": opened, "both": merged}, "$defs": {"d": inner}}
    shut = inner | {"additionalProperties": False}
    assert closed(asked) == {
        "properties": {"list": {"items": shut}, "map": opened, "both": merged},
        "$defs": {"d": shut},
        "additionalProperties": False,
    }
