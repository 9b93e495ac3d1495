"""The target's hidden states of recorded requests, recomputed by running it: capture keeps token ids only.

Decides in which order requests run and what is left out when time runs short. Refuses to know how a head learns, and
where states are kept (states.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.errors import WorldError
from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_engine.training.artifact import SelfTest
from bowsprit_engine.training.data import RequestFeatures, RequestRows, TokenSequence
from bowsprit_engine.training.deadline import FEATURES_UNTIL, TRAINING_UNTIL, Deadline
from bowsprit_engine.training.selection import JUDGED_DTYPE, TRAINED_DTYPE, Chosen
from bowsprit_engine.training.states import StateFile, StoredRequest

READ_TOGETHER = 64  # requests: enough to share prompts, few enough that what time cuts off is the oldest
PREFILL_ROWS = 256  # rows of one forward: enough to fill a GEMM, little enough to stay in cache
SELFTEST_ROWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The requests of a run with the target's states, in the order in which they were chosen."""

    train: list[StoredRequest]
    validation: list[StoredRequest]
    holdout: list[StoredRequest]
    base_holdout: list[StoredRequest]


def compute(
    runner: Runner,
    chosen: Chosen,
    file: StateFile,
    *,
    deadline: Deadline,
    on_request: Callable[[int], None] = lambda done: None,
) -> Features:
    """Requests that judge first, since without them there is no verdict; then as many to train on as time allows.

    Raises WorldError DeadlineExceeded when it doesn't suffice for that, InsufficientStorage when the file's disk is
    full.
    """
    judging = chosen.judging
    reader = StateReader(runner, longest=chosen.longest)
    judged = _stored(
        reader.states(judging, is_late=lambda: deadline.is_past(TRAINING_UNTIL), on_request=on_request),
        judging,
        file,
        dtype=JUDGED_DTYPE,
    )
    train = _stored(
        reader.states(
            chosen.train,
            is_late=lambda: deadline.is_past(FEATURES_UNTIL),
            on_request=lambda done: on_request(len(judging) + done),
        ),
        chosen.train,
        file,
        dtype=TRAINED_DTYPE,
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


def _stored(
    states: Iterable[tuple[int, Tensor]], requests: Sequence[TokenSequence], file: StateFile, *, dtype: torch.dtype
) -> list[StoredRequest]:
    """Those of the requests whose states there are, in their order."""
    found: dict[int, StoredRequest] = {}
    for index, hidden in states:
        request = requests[index]
        found[index] = StoredRequest(
            prompt_token_ids=request.prompt_token_ids,
            token_ids=torch.tensor(request.response_token_ids, dtype=torch.int64),
            rows=file.append(hidden.to(dtype)),
            arrival=request.arrival,
            tenant=request.tenant,
        )
    return [found[index] for index in sorted(found)]


def selftest_of(requests: Sequence[RequestRows]) -> SelfTest:
    """Rows spread evenly over these requests."""
    places = [(request, row) for request in requests for row in range(len(request.token_ids) - 1)]
    places = places[:: max(1, len(places) // SELFTEST_ROWS)][:SELFTEST_ROWS]
    rows, token_ids = [], []
    for request in requests:
        if of_request := [row for owner, row in places if owner is request]:
            rows.append(request.hidden[of_request])
            token_ids += [request.token_ids[row : row + 2] for row in of_request]
    return SelfTest(hidden=torch.cat(rows), token_ids=torch.stack(token_ids))


class StateReader:
    """Recomputes the target's states, one request at a time, in one sequence of KV blocks."""

    def __init__(self, runner: Runner, *, longest: int) -> None:
        """Allocates the runner's cache for requests of up to `longest` tokens."""
        num_blocks = -(-longest // BLOCK_SIZE)
        runner.allocate_kv(num_blocks)
        self._runner = runner
        self._block_table = torch.arange(num_blocks, dtype=torch.int32)[None]
        self._cached: tuple[int, ...] = ()

    def read(self, requests: Sequence[TokenSequence], *, is_late: Callable[[], bool]) -> list[RequestFeatures]:
        """In memory, in the order given; stops early, with what it has, once `is_late()`."""
        found = dict(self.states(requests, is_late=is_late))
        return [
            RequestFeatures(
                prompt_token_ids=requests[index].prompt_token_ids,
                token_ids=torch.tensor(requests[index].response_token_ids, dtype=torch.int64),
                hidden=found[index].clone(),
                arrival=requests[index].arrival,
                tenant=requests[index].tenant,
            )
            for index in sorted(found)
        ]

    def states(
        self,
        requests: Sequence[TokenSequence],
        *,
        is_late: Callable[[], bool],
        on_request: Callable[[int], None] = lambda done: None,
    ) -> Iterator[tuple[int, Tensor]]:  # of [response, D] float32
        """A request's place and its states, until `is_late()`.

        The newest run first, READ_TOGETHER at a time in the order of their prompts: what a request shares with the one
        before (the system prompt, the template) is already in the cache at the right positions and isn't run again.
        """
        for done, index in enumerate(_order(requests), start=1):
            if is_late():
                return
            yield index, self._read_one(requests[index])
            on_request(done)

    def _read_one(self, request: TokenSequence) -> Tensor:  # [response, D]
        num_prompt = len(request.prompt_token_ids)
        tokens = request.prompt_token_ids + request.response_token_ids[:-1]
        start = min(num_leading_equal(self._cached, tokens), num_prompt - 1)
        hidden = [
            self._run(tokens, begin, min(begin + PREFILL_ROWS, len(tokens)))
            for begin in range(start, len(tokens), PREFILL_ROWS)
        ]
        self._cached = tokens
        return torch.cat(hidden)[num_prompt - 1 - start :]

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
