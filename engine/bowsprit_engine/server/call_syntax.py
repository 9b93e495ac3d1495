"""The JSON object of a call, read character by character as it is written: where it can't be one any more, where its
arguments begin, where they end.

Decides what an object may have to be a call. Reads no character twice, so that an answer costs what it is long. Refuses
to know what is around a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

ARGUMENTS_KEYS = ("arguments", "parameters")
KEYS = ("name", *ARGUMENTS_KEYS, "type", "id")  # the last two say nothing; any other is an answer's, and no call's
_BLANKS = " \t\r\n"
_ESCAPED = 12  # characters that one may be written with: two \uXXXX


class Outcome(StrEnum):
    NO_CALL = "no call"
    ARGUMENTS = "arguments"  # begin with this character, and the name is known
    END = "end"  # of the object, before its arguments were known to follow its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`num_read`: characters of the last text that were needed for it; the brace of arguments isn't among them."""

    outcome: Outcome
    num_read: int


class Head:
    """Reads an object from its opening brace on, until it is known what it is."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the functions that may be called."""
        self.name: str | None = None
        self._names = names
        self._key = ""
        self._word = ""  # of a key or a name, as it is written
        self._is_escaped = False
        self._skipped = Balance()
        self._state: Callable[[str], Outcome | None] = self._before_object

    def read(self, text: str) -> Found | None:
        """What has become known with this text, None for nothing yet. Not to be called after an outcome."""
        for index, character in enumerate(text):
            outcome = self._state(character)
            if outcome is not None:
                num_read = index if outcome is Outcome.ARGUMENTS else index + 1
                return Found(outcome=outcome, num_read=num_read)
        return None

    # Each state takes one character.

    def _before_object(self, character: str) -> Outcome | None:
        self._state = self._before_key
        return None if character == "{" else Outcome.NO_CALL

    def _before_key(self, character: str) -> Outcome | None:
        if character == '"':
            self._word, self._state = "", self._in_key
            return None
        if character == "}":
            return Outcome.END
        return None if character in _BLANKS else Outcome.NO_CALL

    def _in_key(self, character: str) -> Outcome | None:
        if not self._ends_word(character):
            return self._unless_hopeless(KEYS)
        self._key, self._state = _string(self._word) or "", self._before_colon
        return None if self._key in KEYS else Outcome.NO_CALL

    def _before_colon(self, character: str) -> Outcome | None:
        if character == ":":
            self._state = self._before_value
            return None
        return None if character in _BLANKS else Outcome.NO_CALL

    def _before_value(self, character: str) -> Outcome | None:
        if character in _BLANKS:
            return None
        if self._key == "name":
            self._word, self._state = "", self._in_name
            return None if character == '"' else Outcome.NO_CALL
        if self._key in ARGUMENTS_KEYS and character != "{":
            return Outcome.NO_CALL
        if self._key in ARGUMENTS_KEYS and self.name is not None:
            return Outcome.ARGUMENTS
        self._skipped, self._state = Balance(), self._in_skipped
        return self._in_skipped(character)

    def _in_name(self, character: str) -> Outcome | None:
        if not self._ends_word(character):
            return self._unless_hopeless(self._names)
        self.name, self._state = _string(self._word), self._after_value
        return None if self.name in self._names else Outcome.NO_CALL

    def _in_skipped(self, character: str) -> Outcome | None:
        if self._skipped.is_flat and character in ",}":
            return self._after_value(character)
        self._skipped.end_in(character)
        return None

    def _after_value(self, character: str) -> Outcome | None:
        if character == "}":
            return Outcome.END
        if character == ",":
            self._state = self._before_key
            return None
        return None if character in _BLANKS else Outcome.NO_CALL

    def _ends_word(self, character: str) -> bool:
        if character == '"' and not self._is_escaped:
            return True
        self._is_escaped = character == "\\" and not self._is_escaped
        self._word += character
        return False

    def _unless_hopeless(self, words: Collection[str]) -> Outcome | None:
        """Whether what is written of a word can still become one of these; escapes are looked at when it has ended."""
        if "\\" in self._word:
            return Outcome.NO_CALL if len(self._word) > _ESCAPED * max(map(len, words)) else None
        return None if any(word.startswith(self._word) for word in words) else Outcome.NO_CALL


class Balance:
    """Where a JSON value in brackets ends, character by character."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def is_flat(self) -> bool:
        """Outside of all brackets and strings."""
        return self._depth == 0 and not self._in_string

    def end_in(self, text: str) -> int | None:
        """Index behind the closing bracket; None while one is still open."""
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


def _string(written: str) -> str | None:
    """The text of a JSON string, given without its quotes; None where it has an escape that JSON doesn't have."""
    try:
        return str(json.loads(f'"{written}"'))
    except ValueError:
        return None
