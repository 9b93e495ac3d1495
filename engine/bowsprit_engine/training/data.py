"""From captured traffic to what a head trains on: split, features, draft vocabulary.

Decides which requests train and which are held out, and recomputes the target's hidden states for them (capture keeps
token ids only). Refuses to know shards and storage, and how a head learns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.errors import WorldError

PREFILL_ROWS = 256  # rows of one forward: enough to fill a GEMM, little enough to stay in cache
REPLAY_SHARE = 0.2  # of the training requests, from the base sample where there is one
HOLDOUT_SHARE = 0.25  # of the distinct requests; at least the minimum that the gate asks for
MIN_TRAIN_REQUESTS = 64


class RecordedRequest(Protocol):
    """What training reads of a captured request."""

    @property
    def prompt_token_ids(self) -> Sequence[int]: ...

    @property
    def response_token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One request as training knows it: what went in, and what the target emitted."""

    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Requests that train and requests that judge. No prompt is on both sides."""

    train: tuple[TokenSequence, ...]
    holdout: tuple[TokenSequence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFeatures:
    """One request with the target's states. `hidden[i]` is the row that emitted `token_ids[i]`."""

    prompt_token_ids: tuple[int, ...]
    token_ids: Tensor  # [response] int64
    hidden: Tensor  # [response, D] float32


def usable(requests: Iterable[RecordedRequest], *, vocab_size: int, max_model_len: int) -> list[TokenSequence]:
    """Distinct requests with something to predict, in their order.

    An exact repetition counts once: it would count the same luck twice in the confidence interval.
    """
    distinct: dict[TokenSequence, None] = {}
    for request in requests:
        prompt, response = tuple(request.prompt_token_ids), tuple(request.response_token_ids)
        if len(response) < 2 or not prompt or len(prompt) + len(response) > max_model_len:
            continue
        if max(*prompt, *response) < vocab_size:
            distinct[TokenSequence(prompt_token_ids=prompt, response_token_ids=response)] = None
    return list(distinct)


def split(requests: Sequence[TokenSequence], *, min_holdout_requests: int) -> Split:
    """Hold out at least the minimum, choosing whole prompts by the hash of their tokens.

    The same prompt falls on the same side in every run, so an incumbent trained on yesterday's traffic isn't judged on
    what it was trained on. Raises WorldError NotEnoughRequests when too few are left to train on.
    """
    needed = min_holdout_requests + MIN_TRAIN_REQUESTS
    if len(requests) < needed:
        raise WorldError(
            f"{len(requests)} distinct captured requests, {needed} needed: "
            f"{min_holdout_requests} held out and {MIN_TRAIN_REQUESTS} to train on",
            reason="NotEnoughRequests",
        )
    wanted = max(min_holdout_requests, round(len(requests) * HOLDOUT_SHARE))
    by_prompt: dict[tuple[int, ...], list[TokenSequence]] = {}
    for request in requests:
        by_prompt.setdefault(request.prompt_token_ids, []).append(request)
    holdout: set[TokenSequence] = set()
    for prompt in sorted(by_prompt, key=_hash_of):
        if len(holdout) >= wanted:
            break
        holdout.update(by_prompt[prompt])
    train = tuple(request for request in requests if request not in holdout)
    if len(train) < MIN_TRAIN_REQUESTS:
        raise WorldError(
            f"{len(train)} requests left to train on, {MIN_TRAIN_REQUESTS} needed: "
            f"{len(requests)} requests have only {len(by_prompt)} different prompts",
            reason="NotEnoughRequests",
        )
    return Split(train=train, holdout=tuple(request for request in requests if request in holdout))


def with_replay(recent: Sequence[TokenSequence], base: Sequence[TokenSequence]) -> list[TokenSequence]:
    """The recent requests, and base ones (chosen by hash) up to a fifth of the whole."""
    count = round(len(recent) * REPLAY_SHARE / (1 - REPLAY_SHARE))
    replayed = sorted(base, key=lambda request: _hash_of(request.prompt_token_ids))[:count]
    return [*recent, *replayed]


def draft_vocabulary(requests: Iterable[RequestFeatures], *, size: int) -> Tensor:  # [<= size] int64, ascending
    """The tokens that the target emitted most often; at most `size`, fewer when the traffic has fewer."""
    counts = Counter(token for request in requests for token in request.token_ids.tolist())
    return torch.tensor(sorted(token for token, _ in counts.most_common(size)), dtype=torch.int64)


class StateReader:
    """Recomputes the target's states, one request at a time, in one sequence of KV blocks."""

    def __init__(self, runner: Runner, *, longest: int) -> None:
        """Allocates the runner's cache for requests of up to `longest` tokens."""
        num_blocks = -(-longest // BLOCK_SIZE)
        runner.allocate_kv(num_blocks)
        self._runner = runner
        self._block_table = torch.arange(num_blocks, dtype=torch.int32)[None]
        self._cached: tuple[int, ...] = ()

    def read(
        self,
        requests: Sequence[TokenSequence],
        *,
        is_late: Callable[[], bool],
        on_request: Callable[[int], None] = lambda done: None,
    ) -> list[RequestFeatures]:
        """In the order given; stops early, with what it has, once `is_late()`.

        Requests run in the order of their prompts: what a request shares with the one before (the system prompt, the
        template) is already in the cache at the right positions and isn't run again.
        """
        features: dict[int, RequestFeatures] = {}
        for index in sorted(range(len(requests)), key=lambda index: requests[index].prompt_token_ids):
            if is_late():
                break
            features[index] = self._read_one(requests[index])
            on_request(len(features))
        return [features[index] for index in sorted(features)]

    def _read_one(self, request: TokenSequence) -> RequestFeatures:
        num_prompt = len(request.prompt_token_ids)
        tokens = request.prompt_token_ids + request.response_token_ids[:-1]
        start = min(_num_shared(self._cached, tokens), num_prompt - 1)
        hidden = [
            self._run(tokens, begin, min(begin + PREFILL_ROWS, len(tokens)))
            for begin in range(start, len(tokens), PREFILL_ROWS)
        ]
        self._cached = tokens
        return RequestFeatures(
            prompt_token_ids=request.prompt_token_ids,
            token_ids=torch.tensor(request.response_token_ids, dtype=torch.int64),
            hidden=torch.cat(hidden)[num_prompt - 1 - start :].clone(),
        )

    def _run(self, tokens: tuple[int, ...], begin: int, end: int) -> Tensor:  # [end - begin, D]
        batch = StepBatch(
            token_ids=torch.tensor(tokens[begin:end], dtype=torch.int64),
            positions=torch.arange(begin, end, dtype=torch.int32),
            row_sequences=torch.zeros(end - begin, dtype=torch.int32),
            block_tables=self._block_table,
            logit_rows=torch.empty(0, dtype=torch.int64),
        )
        return self._runner.forward(batch).hidden


def _num_shared(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _hash_of(token_ids: tuple[int, ...]) -> bytes:
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).digest()
