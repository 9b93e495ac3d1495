"""Where exactness is not promised: torch's operators. How far verified logits are from plain ones, and who says so."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from bowsprit_engine.config import ServeSettings
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.server import assembly
from tiny_models import random_tokens, rows, tiny_config, tiny_llama

NUM_TOKENS = 60
NUM_LAYERS = 2
ROWS = (1, 2, 5, 9, 17)  # K + 1
# Of a row's error relative to its norm: a layer adds six values that are rounded (two norms, attention, MLP, two sums),
# and the head one; each side may round to another neighbour, which is one unit in the last place apart.
UNIT = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


def bound(dtype):
    return UNIT[dtype] * (6 * NUM_LAYERS + 1)


def runner_of(dtype):
    config = dataclasses.replace(tiny_config(), num_layers=NUM_LAYERS)
    runner = TorchRunner(RandomCheckpoint(Path("random"), config), dtype=dtype, device=torch.device("cpu"))
    runner.allocate_kv(16)
    return runner


@functools.cache
def plain_and_verified(dtype):
    """Logits of the last tokens one step at a time, and of each with the next ones behind it as drafts."""
    runner, tokens = runner_of(dtype), random_tokens(NUM_TOKENS, vocab_size=300)
    table, others = list(range(4)), list(range(4, 8))
    begin = NUM_TOKENS - 17
    for prompt_table in (table, others):
        runner.forward(rows((tokens[:begin], 0, prompt_table)))
    plain = torch.cat([runner.forward(rows((tokens[i : i + 1], i, table))).logits for i in range(begin, NUM_TOKENS)])
    return plain, [runner.forward(rows((tokens[begin : begin + n], begin, others))).logits for n in ROWS]


@pytest.mark.parametrize("dtype", UNIT)
def test_verified_logits_are_within_the_stated_bound_of_plain_ones(dtype):
    """For K up to 16: near, and no more is promised."""
    plain, verified = plain_and_verified(dtype)

    for logits in verified:
        expected = plain[: len(logits)]
        errors = (logits - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(errors.max()) <= bound(dtype)


@pytest.mark.parametrize("dtype", UNIT)
def test_a_greedy_token_differs_only_between_near_equals(dtype):
    """Where the best token leads by more than both rows may be off, it is the best of the verified row too."""
    plain, verified = plain_and_verified(dtype)
    best = plain.topk(2, dim=-1)
    leads = best.values[:, 0] - best.values[:, 1] > 2 * bound(dtype) * plain.norm(dim=-1)
    for logits in verified:
        same = logits.argmax(dim=-1) == best.indices[: len(logits), 0]
        assert bool(same[leads[: len(logits)]].all())
    assert int(leads.sum()) > 0


def test_each_runner_says_whether_its_rows_are_independent():
    """The native one promises it, torch's doesn't; `inspect` prints it."""
    assert (NativeRunner.is_row_invariant, TorchRunner.is_row_invariant) == (True, False)


@pytest.mark.parametrize(("backend", "is_warned"), [("native", False), ("torch", True)])
def test_the_server_says_where_speculation_may_change_an_answer(tmp_path, caplog, backend, is_warned):
    """One line of the log when such a model is loaded, and none where answers are the same."""
    folder = tiny_llama(tmp_path)

    assembly.load(ServeSettings(model=str(folder), backend=backend))

    assert is_warned is ("speculation may change an answer" in caplog.text)
