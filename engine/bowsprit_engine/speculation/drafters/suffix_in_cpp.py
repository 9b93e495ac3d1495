"""Look-up in C++ (native/lookup): contexts in, one call per step for all of them, drafts out.

Decides what C++ is told, and when: new tokens are gathered and go with the next question, or before they are many. The
definition, which drafts are equal to, is suffix_in_python.py. Refuses to know torch and the kernels' library: this one
is compiled for any processor.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Sequence
from ctypes import byref, c_int32
from dataclasses import dataclass
from itertools import accumulate

from bowsprit_engine.native.lookup_library import library
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.suffix_in_python import LEAD

INT, DOUBLE = "i", "d"  # array's codes of C's types
MOST_UNTOLD = 256  # words: what nobody looks up is told in small pieces, or the first question were a pause
BYTES_PER_TOKEN = 192  # of memory for one kept token at most, its n-grams' places included (a test measures it)
BYTES_PER_LIVE_TOKEN = 64  # of a sequence that runs, prompt included: 30 to 60 measured, its tables grow by doubling


@dataclass(slots=True, kw_only=True)
class Followed:
    """A sequence by its number in C++, which knows the first `num_told` of its tokens, or will at the next call."""

    number: int
    num_told: int


class SuffixInCpp:
    """A `LookUp`. `owner_of` names a context's tenant, or everybody, where answers are shared."""

    bytes_per_token = BYTES_PER_TOKEN
    bytes_per_live_token = BYTES_PER_LIVE_TOKEN
    language = "in C++"

    def __init__(self, *, owner_of: Callable[[DraftContext], str], kept_tokens: int) -> None:
        """Raises WorldError where the library isn't built, MemoryError."""
        self._library = library()
        self._owner_of = owner_of
        self._followed: dict[str, Followed] = {}
        self._untold = array(INT)
        self._handle = self._library.bowsprit_lookup_new(kept_tokens)
        if self._handle is None:
            raise MemoryError(f"no room to look up {kept_tokens} tokens: {self._error()}")
        self._free = weakref.finalize(self, self._library.bowsprit_lookup_free, self._handle)

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        asked, most = array(INT), 0
        for context in contexts:
            followed = self._followed.get(context.request_id) or self._follow(context)
            if followed.num_told < len(context.token_ids):
                self._tell(followed, context.token_ids, is_learned=False)
            ahead = context.ahead
            asked.extend((followed.number, context.max_draft_tokens, len(ahead), *ahead))
            most += context.max_draft_tokens
        lengths, tokens, confidences = _ints(len(contexts)), _ints(most), array(DOUBLE, bytes(8 * most))
        told, asked_words, out = self._untold.buffer_info(), asked.buffer_info(), (lengths, tokens, confidences)
        status = self._library.bowsprit_lookup_draft(self._handle, *told, *asked_words, *map(_address, out))
        del self._untold[:]  # in any case: what was refused once isn't told again
        self._check(status)
        return [
            Draft(token_ids=tuple(tokens[end - length : end]), confidences=tuple(confidences[end - length : end]))
            for length, end in zip(lengths, accumulate(lengths), strict=True)
        ]

    def learn(self, context: DraftContext) -> None:
        followed = self._followed.get(context.request_id) or self._follow(context)
        self._tell(followed, context.token_ids, is_learned=True)
        if len(self._untold) > MOST_UNTOLD:
            self._tell_all()

    def forget(self, request_id: str) -> None:
        followed = self._followed.pop(request_id, None)
        if followed is not None:
            self._tell_all()
            self._check(self._library.bowsprit_lookup_forget(self._handle, followed.number))

    def _follow(self, context: DraftContext) -> Followed:
        self._tell_all()
        text, owner, number = array(INT, context.token_ids), self._owner_of(context).encode(), c_int32()
        num_untold = max(0, context.num_prompt_tokens - LEAD)
        self._check(
            self._library.bowsprit_lookup_follow(
                self._handle, owner, len(owner), *text.buffer_info(), num_untold, byref(number)
            )
        )
        followed = self._followed[context.request_id] = Followed(number=number.value, num_told=len(text))
        return followed

    def _tell(self, followed: Followed, token_ids: Sequence[int], *, is_learned: bool) -> None:
        new = token_ids[followed.num_told :]
        self._untold.extend((followed.number, is_learned, len(new), *new))
        followed.num_told += len(new)

    def _tell_all(self) -> None:
        untold = self._untold
        if untold:
            status = self._library.bowsprit_lookup_tell(self._handle, *untold.buffer_info())
            del untold[:]
            self._check(status)

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"look-up in C++: {self._error()}")

    def _error(self) -> str:
        message: bytes = self._library.bowsprit_lookup_error()
        return message.decode()


def _ints(count: int) -> array[int]:
    return array(INT, bytes(4 * count))


def _address(buffer: array[int] | array[float]) -> int:
    return buffer.buffer_info()[0]
