"""What drafters are shown of a live sequence, and what its grammar drafts before anybody is asked.

Refuses to know who is shown it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import DraftContext


def context_of(sequence: LiveSequence, cap: int, *, ahead: tuple[int, ...] = ()) -> DraftContext:
    """What a drafter may look at. `cap`: most tokens."""
    request = sequence.request
    return DraftContext(
        request_id=request.request_id,
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        max_draft_tokens=cap,
        seed=request.sampling.seed,
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        min_p=request.sampling.min_p,
        num_prompt_tokens=sequence.num_prompt_tokens,
        tenant=request.tenant,
        ahead=ahead,
    )


class Texts:
    """What count-based drafters are shown of live sequences, without the target's state. Kept: tokens are live."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, DraftContext]] = {}  # by request id and most tokens

    def of(self, sequence: LiveSequence, cap: int) -> DraftContext:
        """`cap`: most tokens."""
        by_cap = self._of.get(sequence.request_id)
        if by_cap is None:
            by_cap = self._of[sequence.request_id] = {}
        context = by_cap.get(cap)
        if context is None:
            context = by_cap[cap] = replace(context_of(sequence, cap), hidden=None)
        return context

    def drop(self, sequence: LiveSequence) -> None:
        """It ended."""
        self._of.pop(sequence.request_id, None)


def forced_of(
    sequences: Sequence[LiveSequence],
    caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
) -> list[tuple[int, ...]]:
    """Per sequence, what its grammar leaves no choice about, as far as anybody may draft."""
    return [
        () if sequence.grammar is None else sequence.forced(max(by_drafter.values(), default=0))
        for sequence, by_drafter in zip(sequences, caps, strict=True)
    ]
