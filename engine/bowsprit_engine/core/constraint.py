"""Which of the tokens drawn for a constrained sequence it may emit: row by row, as far as its rows are reached.

The keyed draw is an argmax: a token that wins it among all tokens wins it among any of them too. So the step draws
without masks first, and a mask is made only where the winner may not follow; a model that keeps to its grammar costs
one question per token to the library. Filters (top-k, top-p, min-p) go by what a mask leaves: beside them a winner is
taken only where it is the likeliest of all tokens, which no filter removes. A row after a draft that isn't its
sequence's token is never reached and means nothing, so nobody asks for its mask.

Decides by the drawn tokens alone. Refuses to know logits, seeds and how a token is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from bowsprit_engine.core.grammar import Allowed, GrammarState
from bowsprit_engine.core.sequence import LiveSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`row` of the sequence has to be drawn again, of the tokens that are `allowed`: at least one."""

    row: int
    allowed: Allowed

    @property
    def only(self) -> int | None:
        """The token that needs no draw: a forced text often is one that the model would have cut into other tokens."""
        return int(self.allowed.argmax()) if np.count_nonzero(self.allowed) == 1 else None


class ConstrainedRows:
    """The walk over one sequence's rows in one step. It leaves the sequence's grammar after the tokens it emits."""

    def __init__(
        self,
        sequence: LiveSequence,
        grammar: GrammarState,  # the sequence's
        draft: Sequence[int],
        *,
        end_token_ids: Set[int],  # that end the sequence, with or beyond the vocabulary's
        is_sure: Sequence[bool],  # per row: its drawn token would be drawn of any set of tokens that has it
    ) -> None:
        self._sequence = sequence
        self._grammar = grammar
        self._draft = draft
        self._ends = end_token_ids
        self._is_sure = is_sure
        self._is_redrawn = False
        self.row = 0  # where the walk is
        grammar.go_back()

    def refused(self, token_ids: Sequence[int]) -> Refused | None:
        """The first row from here on whose token may not be emitted; None where there is none that is reached.

        `token_ids`: what was drawn, per row; at the row that was last refused, drawn again. Raises CallerError, with
        the library's words, where the grammar fails at `row`.
        """
        while True:
            token = token_ids[self.row]
            allowed = self._unless_emitted(token)
            self._is_redrawn = allowed is not None
            if allowed is not None:
                return Refused(row=self.row, allowed=allowed)
            if token in self._ends or self.row == len(self._draft) or token != self._draft[self.row]:
                return None
            self.row += 1

    def _unless_emitted(self, token: int) -> Allowed | None:
        """None where the sequence emits the token if the row is reached; its grammar is after it then, but for an end.

        A grammar that is at its end allows nothing but an end, min_tokens or not.
        """
        is_end = token in self._ends
        allowed = None
        if not self._is_redrawn:
            is_sure = self._is_sure[self.row]
            allowed = self._grammar.follow(token) if is_sure and not is_end else self._grammar.mask()
            if allowed is None:
                return None
            allowed = self._without_early_ends(allowed)
            if not (is_sure and allowed[token]):
                return allowed
        if not is_end:
            self._grammar.take(token)
        return None

    def _without_early_ends(self, allowed: Allowed) -> Allowed:
        if self._sequence.num_emitted + self.row >= self._sequence.request.sampling.min_tokens:
            return allowed
        unended = allowed.copy()
        # a model's own end token may lie beyond its logits: then nothing needs a mask
        unended[[end for end in self._ends if end < allowed.size]] = False
        return unended if unended.any() else allowed
