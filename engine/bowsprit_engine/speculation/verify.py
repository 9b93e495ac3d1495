"""What a sequence emits in one step: its drafts are kept while they equal the tokens that the target drew.

Pure. The drawn tokens are a function of (seed, logits, position) alone, so the emitted text depends on nothing that was
drafted (Daliri et al., "Coupling without Communication and Drafter-Invariant Speculative Decoding"). Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`token_ids`: what is emitted, at least one token; the bonus, when there is one, is its last.

    `num_accepted`: emitted tokens that were drafted. `num_reached`: draft positions that were judged, which is one
    more than `num_accepted` after a mismatch. `is_stopped`: the last emitted token ends the sequence.
    """

    token_ids: tuple[int, ...]
    num_accepted: int
    num_reached: int
    is_stopped: bool


def judge(
    *,
    drawn: Sequence[int],  # the target's token after the last emitted one, then after each draft
    draft: Sequence[int],  # one shorter than `drawn`
    stop_token_ids: Container[int],
) -> Verdict:
    """Accept the leading drafts that match, add the target's own next token, cut after a stop token."""
    emitted: list[int] = []
    for index, token in enumerate(drawn):
        emitted.append(token)
        is_match = index < len(draft) and draft[index] == token
        is_stopped = token in stop_token_ids
        if is_stopped or not is_match:
            return Verdict(
                token_ids=tuple(emitted),
                num_accepted=index + is_match,
                num_reached=min(index + 1, len(draft)),
                is_stopped=is_stopped,
            )
    raise ValueError(f"{len(drawn)} drawn tokens for {len(draft)} drafts: one more is needed")


def num_leading_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two sequences share from the start: of a draft and what was emitted there, those that matched."""
    if one == other:
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
