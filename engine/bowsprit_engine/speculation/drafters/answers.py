"""The service's recent answers, and where each short run of their tokens occurred: bounded, and learned at once.

Decides what is kept (the newest answers, whose they are) and how a place in them is found: by the most recent
occurrences of the last 8, 4 or 2 tokens or of the last one. Refuses to know what is made of them. Used by the engine's
thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

NGRAMS = (8, 4, 2, 1)  # tokens, the most telling first
PLACES_KEPT = 32  # per n-gram, the most recent ones
BYTES_PER_TOKEN = 768  # of memory for one kept token in CPython, its n-grams' places included (a test measures it)


@dataclass(slots=True, kw_only=True, eq=False)
class Answer:
    """One sequence's tokens from a little before its answer on. `owner`: who may be told of it."""

    owner: str
    token_ids: list[int] = field(default_factory=list)


class Place(NamedTuple):
    """`at`: index of the token in `answer` that came next there."""

    answer: Answer
    at: int

    @property
    def token_id(self) -> int | None:
        """What came next; None at the end of the answer."""
        return self.answer.token_ids[self.at] if self.at < len(self.answer.token_ids) else None


class RecentAnswers:
    """At most `max_tokens` tokens of all owners together; the oldest answers make room, from their beginnings on.

    Token by token: a long answer that went at once kept every running stream waiting for 30 to 70 ms (8,000 tokens).
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._answers: OrderedDict[int, Answer] = OrderedDict()  # by id(), oldest first
        self._leaving: Answer | None = None  # older than all of them …
        self._num_left = 0  # … of which so many tokens have made room
        self._places: dict[int, list[Place]] = {}

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def num_places(self) -> int:
        return sum(map(len, self._places.values()))

    def begin(self, owner: str) -> Answer:
        """A new answer, to be extended."""
        answer = Answer(owner=owner)
        self._answers[id(answer)] = answer
        return answer

    def extend(self, answer: Answer, token_ids: Sequence[int]) -> None:
        """More tokens of `answer`, found from now on. An answer that has begun to make room learns no more."""
        if id(answer) not in self._answers:
            return
        known, begin = answer.token_ids, len(answer.token_ids)
        known.extend(token_ids)
        places = [Place(answer, index) for index in range(begin, len(known))]
        for length in NGRAMS:
            first = max(begin, length)
            for key, place in zip(_keys(answer.owner, known, first, length), places[first - begin :], strict=True):
                held = self._places.get(key)
                if held is None:
                    self._places[key] = [place]
                    continue
                held.append(place)
                if len(held) > PLACES_KEPT:
                    del held[0]
        self._num_tokens += len(token_ids)
        while self._num_tokens > self._max_tokens:
            self._forget_oldest()

    def find(self, owner: str, token_ids: Sequence[int]) -> Sequence[Place]:
        """Where the last tokens occurred in the owner's answers, the most recent places last.

        Two runs of tokens may share a key: whoever uses a place compares the tokens before it.
        """
        for length in NGRAMS:
            if length <= len(token_ids):
                places = self._places.get(_key(owner, token_ids[-length:]))
                if places:
                    return places
        return ()

    def _forget_oldest(self) -> None:
        """One token of all that are kept, or that nothing is left of the oldest answer."""
        if self._leaving is None:
            _, self._leaving = self._answers.popitem(last=False)
            self._num_left = 0
        known, index = self._leaving.token_ids, self._num_left
        if index == len(known):
            self._leaving = None
            return
        for length in NGRAMS:
            if length <= index:
                self._forget_place(_key(self._leaving.owner, known[index - length : index]), self._leaving, index)
        self._num_left += 1
        self._num_tokens -= 1

    def _forget_place(self, key: int, answer: Answer, at: int) -> None:
        places = self._places.get(key, [])
        for index, place in enumerate(places):
            if place.answer is answer and place.at == at:
                del places[index]
                break
        if not places:
            self._places.pop(key, None)


def _key(owner: str, token_ids: Sequence[int]) -> int:
    return hash((owner, *token_ids))


def _keys(owner: str, token_ids: Sequence[int], first: int, length: int) -> Iterator[int]:
    """Of the `length` tokens before each index from `first` (at least `length`) on: `_key`, many at once."""
    num = len(token_ids) - first
    columns = [token_ids[begin : begin + num] for begin in range(first - length, first)]
    return map(hash, zip(repeat(owner), *columns, strict=False))
