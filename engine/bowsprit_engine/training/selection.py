"""Which requests of the split a run takes: all that judge, and the newest to learn from that its limits hold.

Decides by tokens and by bytes of states. What time cuts off later is features.py's and teaching.py's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bowsprit_engine.core.memory_budget import readable
from bowsprit_engine.errors import WorldError
from bowsprit_engine.training import data
from bowsprit_engine.training.data import Split, TokenSequence

MAX_TRAIN_TOKENS = 1_000_000  # emitted tokens of the newest requests; what was measured, see EXPERIMENTS.md
JUDGED_DTYPE = torch.float32  # heads are asked for drafts as serving asks them
TRAINED_DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The requests of a run, by what they are for. `base_holdout` is empty without a base sample."""

    train: list[TokenSequence]
    validation: list[TokenSequence]
    holdout: list[TokenSequence]
    base_holdout: list[TokenSequence]

    @property
    def judging(self) -> list[TokenSequence]:
        return [*self.holdout, *self.base_holdout, *self.validation]

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and response."""
        return max(len(r.prompt_token_ids) + len(r.response_token_ids) for r in [*self.judging, *self.train])

    def state_bytes(self, hidden_size: int) -> int:
        """Of the states of all of them, as they are kept."""
        judged = num_tokens(self.judging) * JUDGED_DTYPE.itemsize
        return hidden_size * (judged + num_tokens(self.train) * TRAINED_DTYPE.itemsize)


def choose(split: Split, base: Split | None, *, hidden_size: int, max_state_bytes: int) -> Chosen:
    """The newest requests to train on, a fifth of base ones among them, whose states fit beside those that judge.

    The two samples were split each by itself: what either is judged by is learned from in neither.
    Raises WorldError InsufficientStorage when nothing is left to train on.
    """
    base_holdout = list(base.holdout) if base is not None else []
    judged = num_tokens([*split.holdout, *base_holdout, *split.validation]) * hidden_size * JUDGED_DTYPE.itemsize
    fitting = (max_state_bytes - judged) // (hidden_size * TRAINED_DTYPE.itemsize)
    if base is None:
        train = data.newest(split.train, max_tokens=min(MAX_TRAIN_TOKENS, fitting))
    else:
        recent, replayed = (_not_judged(side.train, split, base) for side in (split, base))
        train = data.with_replay(data.newest(recent, max_tokens=min(MAX_TRAIN_TOKENS, fitting)), replayed)
    train = _first(train, max_tokens=fitting)
    if not train:
        raise WorldError(
            f"the states of the requests that judge take {readable(judged)} and --scratch-limit is "
            f"{readable(max_state_bytes)}: nothing is left for the requests to train on",
            reason="InsufficientStorage",
        )
    return Chosen(
        train=train, validation=list(split.validation), holdout=list(split.holdout), base_holdout=base_holdout
    )


def num_tokens(requests: Sequence[TokenSequence]) -> int:
    """Emitted tokens: one row of states each."""
    return sum(len(request.response_token_ids) for request in requests)


def _not_judged(requests: Sequence[TokenSequence], *sides: Split) -> list[TokenSequence]:
    judged = {request.prompt_token_ids for side in sides for request in [*side.holdout, *side.validation]}
    return [request for request in requests if request.prompt_token_ids not in judged]


def _first(requests: Sequence[TokenSequence], *, max_tokens: int) -> list[TokenSequence]:
    kept: list[TokenSequence] = []
    left = max_tokens
    for request in requests:
        left -= len(request.response_token_ids)
        if left < 0:
            break
        kept.append(request)
    return kept
