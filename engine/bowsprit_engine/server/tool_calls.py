"""Calls of functions in an answer's text, told as they become certain: which function, then its arguments.

Decides what is a call and what is text; a call that isn't one, or of a function that isn't offered, stays text. Refuses
to know JSON shapes of answers and where the text comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from bowsprit_engine.server.text import overlap
from bowsprit_engine.server.tools import ToolFormat

_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_BETWEEN = " \t\r\n[],;"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """The index-th call of this answer, from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON of the index-th call's arguments."""

    index: int
    text: str


Event = Text | CallBegins | CallArguments


class CallReader:
    """Reads one answer. Blanks around calls are no text."""

    def __init__(self, form: ToolFormat, *, names: Collection[str]) -> None:
        self.num_calls = 0
        self._form = form
        self._names = names
        self._closing = form.closing.strip("\n]")
        self._rest = ""  # not read yet
        self._block = ""  # of a block that has had no call: text again if it never has one
        self._blanks = ""  # held back: text, if more text follows
        self._arguments = _Balance()
        self._state: Callable[[], Iterator[Event] | None] = self._text if form.marker else self._first

    def push(self, text: str) -> list[Event]:
        """What has become certain with this text."""
        self._rest += text
        return list(self._read())

    def flush(self) -> list[Event]:
        """What is left when no text follows: a call that wasn't finished stays as far as it came."""
        events = list(self._read())
        is_text = self._state in (self._text, self._only_text) or self.num_calls == 0
        left = self._block + self._rest if is_text else ""
        self._rest = self._block = ""
        events += self._shown(left)
        if self._blanks and not self.num_calls:
            events.append(Text(self._blanks))
        return events

    def _read(self) -> Iterator[Event]:
        while (events := self._state()) is not None:
            yield from events

    # Each state reads what it can of `_rest`: its events, or None when it must wait for more text.

    def _first(self) -> Iterator[Event] | None:
        """Without a marker: calls from the first character, or none."""
        if not self._rest.strip():
            return None
        self._state = self._between_calls if self._rest.lstrip().startswith("{") else self._only_text
        return iter(())

    def _only_text(self) -> Iterator[Event] | None:
        return self._take(len(self._rest))

    def _text(self) -> Iterator[Event] | None:
        marker = self._form.marker
        at = self._rest.find(marker)
        if at < 0:
            return self._take(len(self._rest) - overlap(self._rest, marker))
        before, self._rest = self._rest[:at], self._rest[at + len(marker) :]
        self._block = marker
        self._state = self._between_calls
        return self._shown(before)

    def _between_calls(self) -> Iterator[Event] | None:
        rest = self._rest.lstrip(_BETWEEN)
        closing = self._closing
        if closing and rest.startswith(closing):
            self._rest, self._block = rest[len(closing) :], ""
            self._state = self._text
        elif rest.startswith("{"):
            self._block += self._rest[: len(self._rest) - len(rest)]
            self._rest, self._state = rest, self._head
        elif not rest or (closing and closing.startswith(rest)):
            return None
        else:
            self._state = self._text if self._form.marker else self._only_text
            return self._give_up("")
        return iter(())

    def _head(self) -> Iterator[Event] | None:
        match = _HEAD.match(self._rest)
        name = None if match is None else _string(match[1])
        if match is not None and name in self._names:
            self._rest, self._state, self._arguments = self._rest[match.end() :], self._inside_arguments, _Balance()
            return self._begin(str(name))
        if "}" not in self._rest:
            return None
        try:
            call, end = json.JSONDecoder().raw_decode(self._rest)
        except (ValueError, RecursionError):
            return None
        text, self._rest = self._rest[:end], self._rest[end:]
        arguments = call.get("arguments", call.get("parameters"))
        name = call.get("name")
        if isinstance(name, str) and name in self._names and isinstance(arguments, dict):  # in another order than usual
            self._state = self._between_calls
            # escaped: text may hold half of a surrogate pair, which no stream can carry
            return self._whole(name, json.dumps(arguments))
        self._state = self._text if self._form.marker else self._only_text
        return self._give_up(text)

    def _inside_arguments(self) -> Iterator[Event] | None:
        if not self._rest:
            return None
        end = self._arguments.end_in(self._rest)
        text = self._rest if end is None else self._rest[:end]
        self._rest = self._rest[len(text) :]
        if end is not None:
            self._state = self._after_arguments
        return iter((CallArguments(self.num_calls - 1, text),))

    def _after_arguments(self) -> Iterator[Event] | None:
        rest = self._rest.lstrip()
        if not rest:
            return None
        self._rest = rest.removeprefix("}")
        self._state = self._between_calls
        return iter(())

    def _begin(self, name: str) -> Iterator[Event]:
        self._block = self._blanks = ""
        self.num_calls += 1
        yield CallBegins(self.num_calls - 1, name)

    def _whole(self, name: str, arguments: str) -> Iterator[Event]:
        yield from self._begin(name)
        yield CallArguments(self.num_calls - 1, arguments)

    def _give_up(self, text: str) -> Iterator[Event]:
        """It was no call: all of it is text."""
        block, self._block = self._block, ""
        return self._shown(block + text)

    def _take(self, length: int) -> Iterator[Event] | None:
        if length == 0:
            return None
        text, self._rest = self._rest[:length], self._rest[length:]
        return self._shown(text)

    def _shown(self, text: str) -> Iterator[Event]:
        text = self._blanks + text
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        if shown:
            yield Text(shown)


def _string(quoted: str) -> str | None:
    try:
        return str(json.loads(quoted))
    except ValueError:  # an escape that JSON doesn't have
        return None


class _Balance:
    """Where a JSON object ends, character by character."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def end_in(self, text: str) -> int | None:
        """Index behind the closing brace; None while it is still open."""
        for index, character in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None
