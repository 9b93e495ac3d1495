"""JSON schemas as callers send them: which part of one is refused, and what a schema of arguments means here.

Decides nothing of grammars: whether a schema can be executed is asked of a function. Knows the keywords that hold
other schemas.
"""

from __future__ import annotations

import re
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
# Positions, of all schemas of a grammar together. Measured: 1,000 cost 0.5 ms for each token of an answer, 10,000 more
# than 10 ms.
MAX_EXPRESSION_SIZE = 2_000
_MOST_COUNTED = 10**9  # positions; Python prints no number of thousands of digits


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


_COUNT = re.compile(r"\{\s*+(\d*+)\s*+(?:,\s*+(\d*+)\s*+)?\}")  # possessive: else blanks cost their fourth power
_CLASS_OPENING = re.compile(r"\[\^?\]?")  # a bracket that comes first is one of the characters


def expression_size(pattern: str) -> int:
    """How many positions a regular expression has when its counted repetitions are written out, up to a billion."""
    groups = [0]
    last = 0  # size of what a repetition would repeat; it is in groups[-1] already
    index = 0
    while index < len(pattern):
        count = _COUNT.match(pattern, index)
        if count:
            times = max(1, min(_MOST_COUNTED, int(count[2] or count[1] or 1)))
            groups[-1] += last * (times - 1)
            last = min(_MOST_COUNTED, last * times)
            index = count.end()
            continue
        text = pattern[index]
        index = _atom_end(pattern, index)
        if text == "(":
            groups.append(0)
            last = 0
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif text not in "*+?|^$":
            last = 1
            groups[-1] += 1
    return min(_MOST_COUNTED, sum(groups))


def _atom_end(pattern: str, index: int) -> int:
    """Where the character, escape or class at `index` ends. Classes may hold others, as the library reads them."""
    if pattern[index] == "\\":
        return index + 2
    depth = 0
    while index < len(pattern):
        opening = _CLASS_OPENING.match(pattern, index)
        if opening:
            depth += 1
            index = opening.end()
        elif depth and pattern[index] == "\\":
            index += 2
        else:
            depth -= pattern[index] == "]" and depth > 0
            index += 1
        if depth == 0:
            break
    return index
