"""What a drafter is asked about one sequence, in tests: a test names only the fields that it is about."""

from __future__ import annotations

from collections.abc import Sequence

from bowsprit_engine.speculation.drafters.base import DraftContext


def draft_context(token_ids: Sequence[int], **fields: object) -> DraftContext:
    """A greedy sequence `r` without a state, asked for up to 8 tokens; `fields` are DraftContext's own."""
    usual = {"request_id": "r", "hidden": None, "max_draft_tokens": 8, "seed": 0, "temperature": 0.0}
    return DraftContext(**{**usual, **fields, "token_ids": token_ids})
