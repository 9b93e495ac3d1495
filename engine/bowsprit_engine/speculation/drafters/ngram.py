"""Prompt look-up: what followed the last few tokens when they occurred before in this sequence.

Decides by the longest suffix (5 down to 2 tokens) that occurred before, its most recent occurrence first (Saxena,
"Prompt Lookup Decoding"). Refuses to know torch, other sequences and the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_policy.wire import DrafterState, DrafterType

LONGEST_NGRAM = 5
SHORTEST_NGRAM = 2


class SuffixIndex:
    """Where the continuation of every n-gram of one growing sequence begins: O(1) per appended token.

    An n-gram enters when the token after it is known, so the sequence's own last n-gram never finds itself.
    """

    def __init__(self) -> None:
        self._num_indexed = 0
        self._continuations: tuple[dict[tuple[int, ...], int], ...] = tuple(
            {} for _ in range(LONGEST_NGRAM - SHORTEST_NGRAM + 1)
        )

    def extend(self, token_ids: Sequence[int]) -> None:
        """Index what was appended since the last call. `token_ids` is the whole sequence."""
        for continuation in range(max(self._num_indexed, SHORTEST_NGRAM), len(token_ids)):
            for length, table in zip(range(SHORTEST_NGRAM, LONGEST_NGRAM + 1), self._continuations, strict=True):
                if length > continuation:
                    break
                table[tuple(token_ids[continuation - length : continuation])] = continuation
        self._num_indexed = len(token_ids)

    def find(self, token_ids: Sequence[int]) -> int | None:
        """Index of the token that followed the longest known suffix of `token_ids`, or None."""
        for length in range(min(LONGEST_NGRAM, len(token_ids)), SHORTEST_NGRAM - 1, -1):
            start = self._continuations[length - SHORTEST_NGRAM].get(tuple(token_ids[-length:]))
            if start is not None:
                return start
        return None


def continue_from(token_ids: Sequence[int], start: int, count: int) -> tuple[int, ...]:
    """`count` tokens copied from `start` on; past the end the copy goes on with what it has copied (a period)."""
    copied = list(token_ids[start : start + count])
    period = len(token_ids) - start
    while len(copied) < count:
        copied.append(copied[len(copied) - period])
    return tuple(copied)


class NGramDrafter:
    """Proposes from the sequence's own context. Needs no training and costs microseconds."""

    type = DrafterType.NGRAM

    def __init__(self, *, name: str) -> None:
        self.name = name
        self.state = DrafterState.ACTIVE
        self.reason = ""
        self.revision: str | None = None
        self._indexes: dict[str, SuffixIndex] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty where no suffix of at least two tokens occurred before."""
        return [self._propose_one(context) for context in contexts]

    def forget(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)

    def _propose_one(self, context: DraftContext) -> Draft:
        index = self._indexes.setdefault(context.request_id, SuffixIndex())
        index.extend(context.token_ids)
        start = index.find(context.token_ids)
        if start is None:
            return Draft(token_ids=())
        return Draft(token_ids=continue_from(context.token_ids, start, context.max_draft_tokens))
