"""From captured traffic to requests that train and requests that judge, and the draft vocabulary.

Decides which request does what. Refuses to know shards and storage, the target's states (features.py) and how a head
learns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bowsprit_engine.errors import WorldError

REPLAY_SHARE = 0.2  # of the training requests, from the base sample where there is one
MIN_TRAIN_REQUESTS = 64  # validation included
MAX_VALIDATION_REQUESTS = 32


class RecordedRequest(Protocol):
    """What training reads of a captured request."""

    @property
    def prompt_token_ids(self) -> Sequence[int]: ...

    @property
    def response_token_ids(self) -> Sequence[int]: ...

    @property
    def tenant(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One request as training knows it: what went in, and what the target emitted.

    `arrival`: its place in the order of the traffic; `tenant`: whose it was. Neither makes it another request.
    """

    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    arrival: int = field(default=0, compare=False)
    tenant: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Requests that train, that choose among trained weights, and that judge. No prompt is in two of them."""

    train: tuple[TokenSequence, ...]
    validation: tuple[TokenSequence, ...]
    holdout: tuple[TokenSequence, ...]


class RequestRows(Protocol):
    """One request with the target's states, wherever they are. `hidden[i]` is the row that emitted `token_ids[i]`."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]: ...

    @property
    def token_ids(self) -> Tensor:  # [response] int64
        ...

    @property
    def hidden(self) -> Tensor:  # [response, D] float32; bfloat16 where it only trains
        """May be read from a disk each time: ask once, and let it go."""
        ...

    @property
    def arrival(self) -> int: ...

    @property
    def tenant(self) -> str: ...

    def will_read(self) -> None:
        """`hidden` will be asked for soon."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFeatures:
    """`RequestRows` in memory."""

    prompt_token_ids: tuple[int, ...]
    token_ids: Tensor  # [response] int64
    hidden: Tensor  # [response, D] float32; bfloat16 where it only trains
    arrival: int = 0
    tenant: str = ""

    def will_read(self) -> None:
        """They are here."""


def usable(requests: Iterable[RecordedRequest], *, vocab_size: int, max_model_len: int) -> list[TokenSequence]:
    """Distinct requests with something to predict, in their order.

    An exact repetition counts once: it would count the same luck twice in the confidence interval.
    """
    distinct: dict[TokenSequence, None] = {}
    for arrival, request in enumerate(requests):
        prompt, response = tuple(request.prompt_token_ids), tuple(request.response_token_ids)
        if len(response) < 2 or not prompt or len(prompt) + len(response) > max_model_len:
            continue
        if max(*prompt, *response) < vocab_size:
            found = TokenSequence(
                prompt_token_ids=prompt, response_token_ids=response, arrival=arrival, tenant=request.tenant
            )
            distinct.setdefault(found)
    return list(distinct)


def split(requests: Sequence[TokenSequence], *, min_holdout_requests: int) -> Split:
    """By the hash of the prompt's tokens: the least ones are held out, the next validate, the others train.

    Traffic that grows only moves prompts towards training, so an incumbent trained on an earlier part is neither
    judged nor chosen by what it was trained on. Raises WorldError NotEnoughRequests when too few are left to train on.
    """
    needed = min_holdout_requests + MIN_TRAIN_REQUESTS
    if len(requests) < needed:
        raise WorldError(
            f"{len(requests)} distinct captured requests, {needed} needed: "
            f"{min_holdout_requests} held out and {MIN_TRAIN_REQUESTS} to train on",
            reason="NotEnoughRequests",
        )
    by_prompt: dict[tuple[int, ...], list[TokenSequence]] = {}
    for request in requests:
        by_prompt.setdefault(request.prompt_token_ids, []).append(request)
    in_order = [request for prompt in sorted(by_prompt, key=_hash_of) for request in by_prompt[prompt]]
    num_holdout = _end_of_prompt(in_order, min_holdout_requests)
    num_left = len(in_order) - num_holdout
    if num_left < MIN_TRAIN_REQUESTS:
        raise WorldError(
            f"{num_left} requests left to train on, {MIN_TRAIN_REQUESTS} needed: "
            f"{len(requests)} requests have only {len(by_prompt)} different prompts",
            reason="NotEnoughRequests",
        )
    num_validation = min(MAX_VALIDATION_REQUESTS, num_left // 3)
    train_from = _end_of_prompt(in_order, num_holdout + num_validation)
    judging = set(in_order[:train_from])
    return Split(
        train=tuple(request for request in requests if request not in judging),
        validation=tuple(in_order[num_holdout:train_from]),
        holdout=tuple(in_order[:num_holdout]),
    )


def _end_of_prompt(in_order: Sequence[TokenSequence], count: int) -> int:
    """`count`, or more where that would cut through the requests of one prompt."""
    while 0 < count < len(in_order) and in_order[count].prompt_token_ids == in_order[count - 1].prompt_token_ids:
        count += 1
    return count


def with_replay(recent: Sequence[TokenSequence], base: Sequence[TokenSequence]) -> list[TokenSequence]:
    """The recent requests, and base ones (chosen by hash) up to a fifth of the whole."""
    count = round(len(recent) * REPLAY_SHARE / (1 - REPLAY_SHARE))
    replayed = sorted(base, key=lambda request: _hash_of(request.prompt_token_ids))[:count]
    return [*recent, *replayed]


def draft_vocabulary(requests: Iterable[RequestRows], *, size: int) -> Tensor:  # [<= size] int64, ascending
    """The tokens that the target emitted most often; at most `size`, fewer when the traffic has fewer."""
    counts = Counter(token for request in requests for token in request.token_ids.tolist())
    return torch.tensor(sorted(token for token, _ in counts.most_common(size)), dtype=torch.int64)


def newest(requests: Sequence[TokenSequence], *, max_tokens: int) -> list[TokenSequence]:
    """The last requests whose responses have at most `max_tokens` tokens together, at least one."""
    kept: list[TokenSequence] = []
    tokens = 0
    for request in reversed(requests):
        tokens += len(request.response_token_ids)
        if kept and tokens > max_tokens:
            break
        kept.append(request)
    return kept[::-1]


def _hash_of(token_ids: tuple[int, ...]) -> bytes:
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).digest()
