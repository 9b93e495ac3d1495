"""JSON schemas as callers send them: which part of one is refused, and what a schema of arguments means here.

Decides nothing of grammars: whether a schema can be executed is asked of a function. Knows the keywords that hold
other schemas.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DEFINITIONS = ("$defs", "definitions")

MAX_TRIALS = 200
MAX_TRIAL_SECONDS = 0.05  # of the thread's own time, which a busy machine doesn't shorten


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
    """Which part of a schema is refused. Asks `why_not` for a bounded time, then answers with what it knows."""

    def __init__(
        self, why_not: Callable[[Schema], str | None], *, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._why_not = why_not
        self._clock = clock  # seconds
        self._num_left = MAX_TRIALS
        self._ends = clock() + MAX_TRIAL_SECONDS

    def refusal(self, schema: Schema) -> str | None:
        """The words with which a schema is refused; None for one that isn't, or when enough was tried."""
        if self._num_left == 0 or self._clock() >= self._ends:
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
    """Every regular expression in it, and what may be one: a reference can make a schema of any part."""
    left: list[Any] = [schema]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left.extend(part)
        elif isinstance(part, Mapping):
            if isinstance(part.get("pattern"), str):
                yield part["pattern"]
            if isinstance(part.get("patternProperties"), Mapping):
                yield from part["patternProperties"]
            left.extend(part.values())
