"""The target's hidden states of recorded requests, recomputed by running it: capture keeps token ids only.

Decides in which order requests run and what is left out when time runs short. Refuses to know how a head learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.errors import WorldError
from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_engine.training import data
from bowsprit_engine.training.artifact import SelfTest
from bowsprit_engine.training.data import RequestFeatures, Split, TokenSequence
from bowsprit_engine.training.deadline import FEATURES_UNTIL, TRAINING_UNTIL, Deadline

READ_TOGETHER = 64  # requests: enough to share prompts, few enough that what time cuts off is the oldest
PREFILL_ROWS = 256  # rows of one forward: enough to fill a GEMM, little enough to stay in cache
MAX_TRAIN_TOKENS = 100_000  # emitted tokens of the newest requests
SELFTEST_ROWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The requests of a run, by what they are for. `base_holdout` is empty without a base sample."""

    train: list[TokenSequence]
    validation: list[TokenSequence]
    holdout: list[TokenSequence]
    base_holdout: list[TokenSequence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The target's states of all requests of a run."""

    train: list[RequestFeatures]
    validation: list[RequestFeatures]
    holdout: list[RequestFeatures]
    base_holdout: list[RequestFeatures]


def choose(split: Split, base: Split | None) -> Chosen:
    """The newest requests to train on, a fifth of base ones among them."""
    train = data.newest(split.train, max_tokens=MAX_TRAIN_TOKENS)
    if base is not None:
        train = data.with_replay(train, base.train)
    return Chosen(
        train=train,
        validation=list(split.validation),
        holdout=list(split.holdout),
        base_holdout=list(base.holdout) if base is not None else [],
    )


def compute(
    runner: Runner, chosen: Chosen, *, deadline: Deadline, on_request: Callable[[int], None] = lambda done: None
) -> Features:
    """Requests that judge first, since without them there is no verdict; then as many to train on as time allows.

    Raises WorldError DeadlineExceeded when it doesn't suffice for that.
    """
    judging = [*chosen.holdout, *chosen.base_holdout, *chosen.validation]
    longest = max(len(r.prompt_token_ids) + len(r.response_token_ids) for r in [*judging, *chosen.train])
    reader = StateReader(runner, longest=longest)
    judged = reader.read(judging, is_late=lambda: deadline.is_past(TRAINING_UNTIL), on_request=on_request)
    train = reader.read(
        chosen.train,
        is_late=lambda: deadline.is_past(FEATURES_UNTIL),
        on_request=lambda done: on_request(len(judging) + done),
        dtype=torch.bfloat16,
    )
    if len(judged) < len(judging) or not train:
        raise WorldError(
            f"the target's states of {len(judged)} of {len(judging)} requests to judge by and {len(train)} to train on "
            f"were there when {deadline.elapsed():.0f} of {deadline.seconds:.0f} s had passed",
            reason="DeadlineExceeded",
        )
    first_validation = len(judging) - len(chosen.validation)
    return Features(
        train=train,
        validation=judged[first_validation:],
        holdout=judged[: len(chosen.holdout)],
        base_holdout=judged[len(chosen.holdout) : first_validation],
    )


def selftest_of(requests: Sequence[RequestFeatures]) -> SelfTest:
    """Rows spread evenly over these requests."""
    rows = [(r.hidden[i], r.token_ids[i : i + 2]) for r in requests for i in range(len(r.token_ids) - 1)]
    rows = rows[:: max(1, len(rows) // SELFTEST_ROWS)][:SELFTEST_ROWS]
    return SelfTest(
        hidden=torch.stack([hidden for hidden, _ in rows]), token_ids=torch.stack([tokens for _, tokens in rows])
    )


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
        dtype: torch.dtype = torch.float32,
    ) -> list[RequestFeatures]:
        """In the order given; stops early, with what it has, once `is_late()`. `dtype`: of the states that are kept.

        The newest run first, READ_TOGETHER at a time in the order of their prompts: what a request shares with the one
        before (the system prompt, the template) is already in the cache at the right positions and isn't run again.
        """
        features: dict[int, RequestFeatures] = {}
        for index in _order(requests):
            if is_late():
                break
            features[index] = self._read_one(requests[index], dtype)
            on_request(len(features))
        return [features[index] for index in sorted(features)]

    def _read_one(self, request: TokenSequence, dtype: torch.dtype) -> RequestFeatures:
        num_prompt = len(request.prompt_token_ids)
        tokens = request.prompt_token_ids + request.response_token_ids[:-1]
        start = min(num_leading_equal(self._cached, tokens), num_prompt - 1)
        hidden = [
            self._run(tokens, begin, min(begin + PREFILL_ROWS, len(tokens)))
            for begin in range(start, len(tokens), PREFILL_ROWS)
        ]
        self._cached = tokens
        return RequestFeatures(
            prompt_token_ids=request.prompt_token_ids,
            token_ids=torch.tensor(request.response_token_ids, dtype=torch.int64),
            hidden=torch.cat(hidden)[num_prompt - 1 - start :].to(dtype, copy=True),
            arrival=request.arrival,
            tenant=request.tenant,
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


def _order(requests: Sequence[TokenSequence]) -> Iterator[int]:
    newest_first = sorted(range(len(requests)), key=lambda index: requests[index].arrival, reverse=True)
    for begin in range(0, len(requests), READ_TOGETHER):
        yield from sorted(
            newest_first[begin : begin + READ_TOGETHER], key=lambda index: requests[index].prompt_token_ids
        )
