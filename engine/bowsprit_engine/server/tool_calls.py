"""Calls of functions in an answer's text, told as they become certain: which function, then its arguments.

Decides what is a call and what is text; a call that isn't one, or of a function that isn't offered, stays text. Refuses
to know JSON shapes of answers and where the text comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from bowsprit_engine.server.call_syntax import ARGUMENTS_KEYS, Balance, Head, Outcome
from bowsprit_engine.server.text import overlap
from bowsprit_engine.server.tools import ToolFormat

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
        self._block: list[str] = []  # of a block that has had no call: text again if it never has one
        self._object: list[str] = []  # that may be a call
        self._blanks: list[str] = []  # held back: text, if more text follows
        self._reading = Head(names)
        self._arguments = Balance()
        self._state: Callable[[], Iterator[Event] | None] = self._text if form.marker else self._first

    def push(self, text: str) -> list[Event]:
        """What has become certain with this text."""
        self._rest += text
        return list(self._read())

    def flush(self) -> list[Event]:
        """What is left when no text follows: a call that wasn't finished stays as far as it came."""
        events = list(self._read())
        is_text = self._state in (self._text, self._only_text) or self.num_calls == 0
        left = "".join([*self._block, *self._object, self._rest]) if is_text else ""
        events += self._shown(left)
        blanks = "".join(self._blanks)
        if blanks and not self.num_calls:
            events.append(Text(blanks))
        self._rest, self._block, self._object, self._blanks = "", [], [], []
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
        self._block = [marker]
        self._state = self._between_calls
        return self._shown(before)

    def _between_calls(self) -> Iterator[Event] | None:
        rest = self._rest.lstrip(_BETWEEN)
        self._block.append(self._rest[: len(self._rest) - len(rest)])
        self._rest, closing = rest, self._closing
        if closing and rest.startswith(closing):
            self._rest, self._block = rest[len(closing) :], []
            self._state = self._text
        elif rest.startswith("{"):
            self._object, self._reading, self._state = [], Head(self._names), self._head
        elif not rest or (closing and closing.startswith(rest)):
            return None
        else:
            return self._give_up()
        return iter(())

    def _head(self) -> Iterator[Event] | None:
        if not self._rest:
            return None
        found = self._reading.read(self._rest)
        num_read = len(self._rest) if found is None else found.num_read
        self._object.append(self._rest[:num_read])
        self._rest = self._rest[num_read:]
        if found is None:
            return None
        if found.outcome is Outcome.ARGUMENTS and self._reading.name is not None:
            self._state, self._arguments = self._inside_arguments, Balance()
            return self._begin(self._reading.name)
        call = _call_in("".join(self._object)) if found.outcome is Outcome.END else None
        if call is None or call.name not in self._names:
            return self._give_up()
        self._state = self._between_calls
        return self._whole(call)

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
        self._rest = self._rest.lstrip()
        if not self._rest:
            return None
        self._rest = self._rest.removeprefix("}")
        self._state = self._between_calls
        return iter(())

    def _begin(self, name: str) -> Iterator[Event]:
        self._block, self._object, self._blanks = [], [], []
        self.num_calls += 1
        yield CallBegins(self.num_calls - 1, name)

    def _whole(self, call: _Call) -> Iterator[Event]:
        yield from self._begin(call.name)
        yield CallArguments(self.num_calls - 1, call.arguments)

    def _give_up(self) -> Iterator[Event]:
        """It was no call: all of it is text."""
        self._state = self._text if self._form.marker else self._only_text
        text = "".join([*self._block, *self._object])
        self._block, self._object = [], []
        return self._shown(text)

    def _take(self, length: int) -> Iterator[Event] | None:
        if length == 0:
            return None
        text, self._rest = self._rest[:length], self._rest[length:]
        return self._shown(text)

    def _shown(self, text: str) -> Iterator[Event]:
        shown = text.rstrip()
        blanks = text[len(shown) :]
        if not shown:
            self._blanks.append(blanks)
            return
        before, self._blanks = "".join(self._blanks), [blanks]
        yield Text(before + shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    name: str
    arguments: str  # as JSON


def _call_in(text: str) -> _Call | None:
    """A call whose arguments come before its name; None for any other object, and for what is no JSON."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = call.get("name")
    arguments = next((call[key] for key in ARGUMENTS_KEYS if key in call), None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    # escaped: text may hold half of a surrogate pair, which no stream can carry
    return _Call(name=name, arguments=json.dumps(arguments))
