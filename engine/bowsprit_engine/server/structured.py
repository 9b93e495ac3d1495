"""What a body asks of its output's form, as the source of a grammar.

Decides what `response_format` and `structured_outputs` mean, and where in the body a refusal belongs. Refuses to know
tools (tools.py), how grammars are compiled (grammars.py) and executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, grammar_from
from pydantic_core import from_json

from bowsprit_engine.core.grammar import MAX_SOURCE_CHARACTERS
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server import schemas
from bowsprit_engine.server.expressions import MAX_POSITIONS, ExpressionSize, size_of, total_of
from bowsprit_engine.server.schemas import Schema
from bowsprit_engine.server.wire import (
    MAX_EXPRESSION_CHARACTERS,
    ChatBody,
    GenerationBody,
    ResponseFormat,
    StructuredOutputs,
)

# One way to write a value, the one in which models learn JSON (Python's). With free blanks, the library's default, a
# small model never stops writing them.
BLANKS: Mapping[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# With the flag x a blank may stand before a repetition, which hides its size.
IGNORES_BLANKS = re.compile(r"(?<!\\)(?:\\\\)*\(\?[a-zA-Z-]*x")
ANY_OBJECT: Schema = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A grammar that is not compiled yet. `param`: the field that asks for it. `is_costly`: by its expressions.

    `schemas`: by their path, the schemas that it consists of, to say which of them a refusal is about.
    """

    source: str
    param: str
    schemas: Mapping[str, Schema]
    is_costly: bool = False

    def refusal(self, error: CallerError, why_not: Callable[[Schema], str | None]) -> CallerError:
        """The same refusal with the field that it is about, as far down as the library's words can be traced."""
        search = schemas.Search(why_not)
        for path, schema in self.schemas.items():
            if (why := search.refusal(schema)) is not None:
                inner = search.place(schema, why)
                param = f"{path}.{inner}" if inner else path
                return CallerError(f"{param}: {why}", param=param, code="invalid_schema")
        return CallerError(f"{self.param}: {error}", param=self.param, code=error.code)


def has_form(body: GenerationBody) -> bool:
    """Whether an answer must be more than text."""
    form = body.response_format if isinstance(body, ChatBody) else None
    return body.structured_outputs is not None or (form is not None and form.type != "text")


def structure_of(body: GenerationBody) -> Structure | None:
    """None for free text. Raises CallerError for two forms at once, and for expressions beyond the limit."""
    asked = body.structured_outputs
    form = body.response_format if isinstance(body, ChatBody) else None
    if form is not None and form.type != "text":
        if asked is not None:
            raise CallerError("structured_outputs can't be combined with response_format", param="structured_outputs")
        return _of_format(form)
    return None if asked is None else _of_extension(asked)


def json_structure(schema: Schema, *, param: str) -> Structure:
    size = check_schema(schema, param=param)
    return Structure(source=json_source(schema), param=param, schemas={param: schema}, is_costly=size.is_costly)


def json_source(schema: Schema) -> str:
    """llguidance's notation of a JSON schema."""
    source: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=dict(BLANKS))  # type: ignore[arg-type]
    return source


def check_schema(schema: Schema, *, param: str) -> ExpressionSize:
    """The size of its regular expressions. Raises CallerError where it has too much of anything: it isn't worth a look,
    or can't be followed."""
    return _measured(schema, param=param)[1]


def _measured(schema: Schema, *, param: str) -> tuple[int, ExpressionSize]:
    """Its characters too."""
    num_characters = len(json.dumps(schema))
    _check_characters(num_characters, param=param, what="a schema")
    size = total_of(_checked(pattern, param=param, is_anchored=False) for pattern in schemas.expressions(schema))
    _check_positions(size, param=param)
    return num_characters, size


def check_schemas(together: Mapping[str, Schema], *, param: str) -> ExpressionSize:
    """Schemas of one grammar, by their path: each of them, and then their sums. Raises CallerError."""
    measured = [_measured(schema, param=path) for path, schema in together.items()]
    _check_characters(sum(characters for characters, _ in measured), param=param, what="schemas together")
    size = total_of(size for _, size in measured)
    _check_positions(size, param=param)
    return size


def _of_format(form: ResponseFormat) -> Structure:
    if form.json_schema is None:
        return json_structure(ANY_OBJECT, param="response_format")
    return json_structure(form.json_schema.definition or ANY_OBJECT, param="response_format.json_schema.schema")


def _of_extension(asked: StructuredOutputs) -> Structure:
    if asked.regex is not None:
        param = "structured_outputs.regex"
        size = _checked(asked.regex, param=param, is_anchored=True)
        source = LLMatcher.grammar_from_regex(asked.regex)
        return Structure(source=source, param=param, schemas={}, is_costly=size.is_costly)
    if asked.choice is not None:
        source = grammar_from("choice", json.dumps(asked.choice))
        return Structure(source=source, param="structured_outputs.choice", schemas={})
    if isinstance(asked.json_value, str):
        return json_structure(_read_schema(asked.json_value), param="structured_outputs.json")
    return json_structure(asked.json_value or ANY_OBJECT, param="structured_outputs.json")


def _read_schema(text: str) -> Schema:
    try:
        schema = from_json(text)  # bounded in depth, as bodies are
    except ValueError as error:
        raise CallerError(f"structured_outputs.json: not JSON: {error}", param="structured_outputs.json") from error
    if not isinstance(schema, dict):
        raise CallerError("structured_outputs.json: a schema is an object", param="structured_outputs.json")
    return schema


def _checked(pattern: str, *, param: str, is_anchored: bool) -> ExpressionSize:
    """The size of an expression that may be looked at."""
    if len(pattern) > MAX_EXPRESSION_CHARACTERS:
        raise CallerError(
            f"{param}: a regular expression of {len(pattern)} characters, the limit is {MAX_EXPRESSION_CHARACTERS}",
            param=param,
        )
    if IGNORES_BLANKS.search(pattern):
        raise CallerError(f"{param}: a regular expression with the flag x, which is not supported", param=param)
    size = size_of(pattern, is_anchored=is_anchored)
    _check_positions(size, param=param)
    return size


def _check_positions(size: ExpressionSize, *, param: str) -> None:
    if size.num_positions > MAX_POSITIONS:
        raise CallerError(
            f"{param}: regular expressions of {size.num_positions} positions, the limit is {MAX_POSITIONS}", param=param
        )


def _check_characters(num_characters: int, *, param: str, what: str) -> None:
    if num_characters > MAX_SOURCE_CHARACTERS:
        raise CallerError(
            f"{param}: {what} of {num_characters} characters, the limit is {MAX_SOURCE_CHARACTERS}", param=param
        )
