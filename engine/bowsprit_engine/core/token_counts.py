"""How often each token of a sequence was emitted, kept up to date token by token: what penalties count.

Decides nothing. Linear once in the prompt, then in what is new; drafts are counted for a moment and taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 256


class TokenCounts:
    """Distinct tokens in the order in which they came, each with how often it was emitted (the prompt's alone: 0)."""

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._slots: dict[int, int] = {}
        self._ids: NDArray[np.int64] = np.empty(FIRST_CAPACITY, dtype=np.int64)
        self._counts: NDArray[np.float32] = np.zeros(FIRST_CAPACITY, dtype=np.float32)
        self._num_emitted = 0
        self._drafts: list[tuple[int, bool]] = []  # each with whether nothing had it before
        for token in prompt_token_ids:
            self._slot(token)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """Of `token_ids`, in their order."""
        return self._counts[: len(self._slots)]

    def catch_up(self, emitted: Sequence[int]) -> None:
        """Count what was emitted since the last time; `emitted` is everything so far."""
        for token in emitted[self._num_emitted :]:
            self._count(token)
        self._num_emitted = len(emitted)

    @contextmanager
    def drafting(self) -> Iterator[None]:
        """What `append_draft` counts inside is taken back at the end."""
        try:
            yield
        finally:
            for token, is_new in reversed(self._drafts):
                slot = self._slots.pop(token) if is_new else self._slots[token]
                self._counts[slot] -= 1
            self._drafts.clear()

    def append_draft(self, token: int) -> None:
        self._drafts.append((token, token not in self._slots))
        self._count(token)

    def _count(self, token: int) -> None:
        slot = self._slot(token)  # first: a new one may move the counts
        self._counts[slot] += 1

    def _slot(self, token: int) -> int:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        return slot
