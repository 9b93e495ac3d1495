"""Prompt look-up: what followed the last few tokens when they occurred before in this sequence, with edits in between.

Decides by the longest suffix (5 down to 2 tokens) that occurred before, its most recent occurrence first (Saxena,
"Prompt Lookup Decoding"), unless a copy is under way: then the copy goes on where it is, and after a token that isn't
in the source it resumes near the place where it broke off, by one matching token or by none. Refuses to know torch,
other sequences and the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_policy.wire import DrafterState, DrafterType

LONGEST_NGRAM = 5
SHORTEST_NGRAM = 2
LONGEST_COUNTED = 16  # a longer match makes no difference to the confidence
COPY_LENGTH = 4  # so many copied tokens make a copy that is worth resuming
RESUME_WITHIN = 16  # tokens of the source after the break, and tokens emitted since
STRIDE = 8  # tokens that are compared at once
MANY = 16  # tokens that are indexed at once
BYTES_PER_LIVE_TOKEN = 600  # of a sequence that runs, prompt included: 541 to 544 measured
UNSURE = 1.5  # a match of n tokens is believed n / (n + UNSURE)


class SuffixIndex:
    """Where the continuation of every n-gram of one growing sequence begins: O(1) per appended token.

    An n-gram enters when the token after it is known, so the sequence's own last n-gram never finds itself.
    """

    def __init__(self, *, shortest: int = SHORTEST_NGRAM) -> None:
        self._num_indexed = 0
        self._shortest = shortest
        self._continuations: tuple[dict[tuple[int, ...], int], ...] = tuple(
            {} for _ in range(LONGEST_NGRAM - shortest + 1)
        )

    def extend(self, token_ids: Sequence[int]) -> None:
        """Index what was appended since the last call. `token_ids` is the whole sequence."""
        end = len(token_ids)
        for length, table in enumerate(self._continuations, start=self._shortest):
            begin = max(self._num_indexed, length)
            if end - begin < MANY:
                for continuation in range(begin, end):
                    table[tuple(token_ids[continuation - length : continuation])] = continuation
            else:  # a prompt: three times as fast
                indexed = token_ids[begin - length : end - 1]
                ngrams = zip(*(indexed[offset:] for offset in range(length)), strict=False)
                table.update(zip(ngrams, range(begin, end), strict=True))
        self._num_indexed = end

    def find(self, token_ids: Sequence[int]) -> int | None:
        """Index of the token that followed the longest known suffix of `token_ids`, or None."""
        for length in range(min(LONGEST_NGRAM, len(token_ids)), self._shortest - 1, -1):
            start = self._continuations[length - self._shortest].get(tuple(token_ids[-length:]))
            if start is not None:
                return start
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy under way. `source`: index of the token that comes next in it; `length`: tokens copied without a break.

    `broken_at`: the source of the first token that differed, while the copy may still be resumed after it;
    `since`: tokens emitted since then.
    """

    source: int
    length: int = 0
    broken_at: int | None = None
    since: int = 0

    def advanced(self, token_ids: Sequence[int], begin: int) -> Copy:
        """After `token_ids[begin:]` were emitted."""
        copy = self
        for index in range(begin, len(token_ids)):
            copy = copy._after(token_ids, index)
        return copy

    def _after(self, token_ids: Sequence[int], index: int) -> Copy:
        if self.source < index and token_ids[self.source] == token_ids[index]:
            length = self.length + 1
            is_whole = length >= COPY_LENGTH
            return Copy(
                source=self.source + 1,
                length=length,
                broken_at=None if is_whole else self.broken_at,
                since=0 if is_whole else self.since + 1,
            )
        if self.length >= COPY_LENGTH:
            return Copy(source=self.source, broken_at=self.source, since=1)
        return Copy(source=self.source, broken_at=self.broken_at, since=self.since + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where to copy from, and how many tokens before it match."""

    source: int
    match: float


class OwnContext:
    """One growing sequence as a source of its own continuation: its n-grams, and a copy that may be under way."""

    def __init__(self, num_seen: int, *, shortest: int = SHORTEST_NGRAM) -> None:
        """`num_seen`: tokens that were there before anything could be copied; `shortest`: match that begins a copy."""
        self.index = SuffixIndex(shortest=shortest)
        self._copy: Copy | None = None
        self._num_seen = num_seen

    def start(self, token_ids: Sequence[int], ahead: Sequence[int] = ()) -> Start | None:
        """Where what follows `token_ids` (the whole sequence) and `ahead` is copied from. `ahead` changes nothing."""
        self.index.extend(token_ids)
        if self._copy is not None:
            self._copy = self._copy.advanced(token_ids, self._num_seen)
        self._num_seen = len(token_ids)
        text = [*token_ids, *ahead] if ahead else token_ids
        copy = self._copy.advanced(text, self._num_seen) if self._copy is not None else None
        start = best_start(self.index, copy, text)
        if start is not None and not ahead:
            length = int(start.match)
            if copy is None or copy.broken_at is None or start.match >= COPY_LENGTH:
                self._copy = Copy(source=start.source, length=length)
            else:
                self._copy = Copy(source=start.source, length=length, broken_at=copy.broken_at, since=copy.since)
        return start


def continue_from(token_ids: Sequence[int], start: int, count: int) -> tuple[int, ...]:
    """`count` tokens copied from `start` on; past the end the copy goes on with what it has copied (a period)."""
    copied = list(token_ids[start : start + count])
    period = len(token_ids) - start
    while len(copied) < count:
        copied.append(copied[len(copied) - period])
    return tuple(copied)


def match_length(token_ids: Sequence[int], end: int) -> int:
    """Tokens before `end` that equal those before the end of the sequence, as far as they are counted."""
    return match_before(token_ids, end, token_ids, most=LONGEST_COUNTED)


def match_before(source: Sequence[int], end: int, token_ids: Sequence[int], *, most: int) -> int:
    """Tokens of `source` before `end` that equal the last ones of `token_ids`, up to `most`."""
    length, last = 0, len(token_ids)
    most = min(most, end, last)
    while (
        length + STRIDE <= most
        and source[end - length - STRIDE : end - length] == token_ids[last - length - STRIDE : last - length]
    ):
        length += STRIDE
    while length < most and source[end - 1 - length] == token_ids[last - 1 - length]:
        length += 1
    return length


class NGramDrafter:
    """Proposes from the sequence's own context. Needs no training and costs microseconds."""

    type = DrafterType.NGRAM

    def __init__(self, *, name: str) -> None:
        self.name = name
        self.state = DrafterState.ACTIVE
        self.reason = ""
        self.revision: str | None = None
        self._contexts: dict[str, OwnContext] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty where no suffix of at least two tokens occurred before and no copy resumes."""
        return [self._propose_one(context) for context in contexts]

    def forget(self, request_id: str) -> None:
        self._contexts.pop(request_id, None)

    def _propose_one(self, context: DraftContext) -> Draft:
        own = self._contexts.get(context.request_id)
        if own is None:
            own = self._contexts[context.request_id] = OwnContext(len(context.token_ids))
        start = own.start(context.token_ids, context.ahead)
        if start is None:
            return Draft(token_ids=())
        text: Sequence[int] = context.text if context.ahead else context.token_ids
        count = context.max_draft_tokens
        return Draft(token_ids=continue_from(text, start.source, count), confidences=beliefs(start.match, count))


@cache
def beliefs(match: float, count: int) -> tuple[float, ...]:
    """Of `count` tokens copied one after another, the first after a match of so many."""
    return tuple(belief(min(LONGEST_COUNTED, match + index)) for index in range(count))


def belief(match: float) -> float:
    """P(the token after a match of so many tokens comes again), before anything is known of this text."""
    return (match + 0.25) / (match + 0.25 + UNSURE)


def best_start(index: SuffixIndex, copy: Copy | None, token_ids: Sequence[int]) -> Start | None:
    """The copy under way, else the longest match, else where a broken copy most likely goes on."""
    if copy is not None and copy.length >= COPY_LENGTH and copy.source < len(token_ids):
        return Start(source=copy.source, match=min(LONGEST_COUNTED, copy.length))
    found = index.find(token_ids)
    match = match_length(token_ids, found) if found is not None else 0
    if copy is not None and copy.broken_at is not None and copy.since <= RESUME_WITHIN:
        near = _resumed(token_ids, copy.broken_at)
        if near is not None and near.match + 2 >= match:
            return near
    return Start(source=found, match=match) if found is not None else None


def _resumed(token_ids: Sequence[int], broken_at: int) -> Start | None:
    """The longest match that ends near the break, the nearest of equals; without any, the token after the changed one.

    A match that ends before the break is an insertion that the source goes on after.
    """
    best: Start | None = None
    for end in range(broken_at, min(broken_at + RESUME_WITHIN, len(token_ids) - 1) + 1):
        if end == broken_at or token_ids[end - 1] != token_ids[-1]:
            continue
        length = match_length(token_ids, end)
        if best is None or length > best.match:
            best = Start(source=end, match=length)
    if best is None and broken_at + 1 < len(token_ids):
        return Start(source=broken_at + 1, match=0)
    return best
