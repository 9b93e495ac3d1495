"""JSON schemas as callers send them: which part of one is refused, and what a schema of arguments means here.

Decides nothing of grammars: whether a schema can be executed is asked of a function. Knows the keywords that hold
other schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DEFINITIONS = ("$defs", "definitions")

MAX_TRIALS = 200
MAX_EXPRESSION_SIZE = (
    2_000  # positions: measured, 1,000 cost 0.5 ms for each token of an answer, 10,000 more than 10 ms
)


def parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """(path, schema) of the schemas directly inside one."""
    for key in _ONE:
        if isinstance(schema.get(key), Mapping):
            yield key, schema[key]
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            yield from ((f"{key}.{i}", part) for i, part in enumerate(schema[key]) if isinstance(part, Mapping))
    for key in _MAPS:
        if isinstance(schema.get(key), Mapping):
            yield from ((f"{key}.{name}", part) for name, part in schema[key].items() if isinstance(part, Mapping))


class Search:
    """Which part of a schema is refused. Asks `why_not` a bounded number of times, then answers with what it knows."""

    def __init__(self, why_not: Callable[[Schema], str | None]) -> None:
        self._why_not = why_not
        self._num_left = MAX_TRIALS

    def refusal(self, schema: Schema) -> str | None:
        """The words with which a schema is refused; None for one that isn't, or when enough was tried."""
        if self._num_left == 0:
            return None
        self._num_left -= 1
        return self._why_not(schema)

    def place(self, schema: Schema, message: str) -> str:
        """The path of the innermost part that alone is refused with the same words; "" for the schema itself."""
        definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
        for path, part in parts(schema):
            alone = part if path.split(".")[0] in _DEFINITIONS else {**definitions, **part}
            if self.refusal(alone) == message:
                inner = self.place(alone, message)
                return f"{path}.{inner}" if inner else path
        return ""


def closed(schema: Schema) -> Schema:
    """The same, but objects have no other properties than those named, where nothing is said of others.

    A function takes no arguments that it doesn't know, and a small model never stops adding some.
    """
    changed: dict[str, Any] = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            changed[key] = closed(schema[key])
    for key in ("prefixItems", "anyOf", "oneOf"):  # not allOf: its parts see each other's properties
        if isinstance(schema.get(key), list):
            changed[key] = [closed(part) if isinstance(part, Mapping) else part for part in schema[key]]
    for key in ("properties", *_DEFINITIONS):
        if isinstance(schema.get(key), Mapping):
            changed[key] = {
                name: closed(part) if isinstance(part, Mapping) else part for name, part in schema[key].items()
            }
    is_open = any(key in schema for key in ("additionalProperties", "patternProperties", "unevaluatedProperties"))
    if isinstance(schema.get("properties"), Mapping) and not is_open and "allOf" not in schema:
        changed["additionalProperties"] = False
    return changed


def expressions(schema: Schema) -> Iterator[str]:
    """Every regular expression in it."""
    if isinstance(schema.get("pattern"), str):
        yield schema["pattern"]
    if isinstance(schema.get("patternProperties"), Mapping):
        yield from schema["patternProperties"]
    for _, part in parts(schema):
        yield from expressions(part)


_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\]", re.DOTALL)
_COUNT = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")


def expression_size(pattern: str) -> int:
    """How many positions a regular expression has when its counted repetitions are written out."""
    groups = [0]
    last = 0  # size of what a repetition would repeat; it is in groups[-1] already
    index = 0
    while index < len(pattern):
        count = _COUNT.match(pattern, index)
        if count:
            groups[-1] += last * (max(1, int(count[2] or count[1])) - 1)
            last *= max(1, int(count[2] or count[1]))
            index = count.end()
            continue
        atom = _ATOM.match(pattern, index)
        text = atom[0] if atom else pattern[index]
        index += len(text)
        if text == "(":
            groups.append(0)
            last = 0
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif text not in "*+?|^$":
            last = 1
            groups[-1] += 1
    return sum(groups)
