"""The decoder by the Triton kernels: torch's logits, and bits that don't depend on a row's company."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bowsprit_engine.core.runner import ModelOutput
from bowsprit_engine.kernels import gemm
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.step_graphs import StepGraphs
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.models.triton_runner import TritonRunner
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from tiny_models import random_tokens, rows, tiny_config

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}  # float32 sums in another order, two layers deep
CPU = torch.device("cpu")


def runner_of(kind, config, **options):
    checkpoint = RandomCheckpoint(Path("random"), config)
    runner = kind(checkpoint, dtype=torch.float32, device=CPU, **options)
    runner.allocate_kv(12)
    return runner


@pytest.mark.parametrize(
    ("changes", "batch_invariant"),
    [
        ({}, True),
        ({"qkv_bias": True, "output_bias": True, "mlp_bias": True, "qk_norm": True, "layer_windows": (5, None)}, True),
        ({}, False),
    ],
)
def test_it_computes_what_the_torch_runner_computes(changes, batch_invariant):
    """A prompt in two chunks, then a draft beside another prompt, of plain Llama and of all that is optional."""
    config = dataclasses.replace(tiny_config(num_heads=6, head_dim=10, tie_word_embeddings=False), **changes)
    prompt, other = random_tokens(24, vocab_size=300), random_tokens(7, vocab_size=300, seed=1)
    steps = [
        rows((prompt[:17], 0, [3, 1]), logit_rows=[16]),
        rows((prompt[17:], 17, [3, 1]), (other, 0, [7])),
    ]
    expected, actual = (
        [runner.forward(step) for step in steps]
        for runner in (runner_of(TorchRunner, config), runner_of(TritonRunner, config, batch_invariant=batch_invariant))
    )

    for ours, definition in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.logits, definition.logits, **TOLERANCE)
        torch.testing.assert_close(ours.hidden, definition.hidden, **TOLERANCE)


def test_a_rows_bits_do_not_depend_on_the_step_that_it_is_in():
    """Token by token, in one step, and as a draft beside another sequence: the same logits, bit for bit."""
    runner = runner_of(TritonRunner, tiny_config(num_layers=1))
    tokens, other = random_tokens(20, vocab_size=300), random_tokens(9, vocab_size=300, seed=1)

    together = runner.forward(rows((tokens, 0, [0, 1]))).logits
    alone = [runner.forward(rows(([token], 15 + index, [0, 1]))).logits for index, token in enumerate(tokens[15:])]
    beside = runner.forward(rows((other, 0, [5]), (tokens[15:], 15, [0, 1]))).logits[len(other) :]

    assert runner.is_row_invariant
    assert torch.equal(torch.cat(alone), together[15:])
    assert torch.equal(beside, together[15:])


class Rerun:
    """Stands in for a CUDA graph, which the CPU has not: runs the step again over the same buffers."""

    def __init__(self, step):
        self._step, self.output = step, step()

    def replay(self):
        again = self._step()
        self.output = ModelOutput(logits=again.logits, hidden=again.hidden)


def test_a_padded_step_gives_the_bits_of_the_step_itself():
    """Buckets of 4 and 8: a draft of two and a decode row leave no trace of the padding, or of the step before."""
    runner, plain = (runner_of(TritonRunner, tiny_config(num_layers=1)) for _ in range(2))
    runner._graphs = StepGraphs(
        runner._all_logits, max_model_len=256, scratch_block=12, device=CPU, buckets=(4, 8), capture=Rerun
    )
    tokens = random_tokens(20, vocab_size=300)
    steps = [
        rows((tokens[:7], 0, [3])),
        rows((tokens[7:10], 7, [3]), (tokens[:1], 0, [2])),
        rows((tokens[10:12], 10, [3]), (tokens[1:2], 1, [2])),
    ]

    for step in steps:
        padded, expected = runner.forward(step), plain.forward(step)
        assert torch.equal(padded.logits, expected.logits)
        assert torch.equal(padded.hidden, expected.hidden)


def test_steps_without_a_graph_are_known_by_their_shapes():
    """Prompts whose logits aren't all wanted, and steps wider than the widest bucket, run launch by launch."""
    graphs = StepGraphs(
        lambda *_: ModelOutput(logits=torch.zeros(4, 1), hidden=torch.zeros(4, 1)),
        max_model_len=32,
        scratch_block=0,
        device=CPU,
        buckets=(4,),
        capture=Rerun,
    )

    assert graphs.fits(rows(([1, 2], 0, [0]), ([3], 0, [1])))
    assert not graphs.fits(rows(([1, 2], 0, [0]), logit_rows=[1]))
    assert not graphs.fits(rows(([1, 2, 3, 4, 5], 0, [0])))
    assert not graphs.fits(rows(([1], 0, [0, 1, 2])))


def test_a_head_drafts_by_its_targets_products(monkeypatch):
    """Greedy tokens of the head's own arithmetic, sequence by sequence; every product is the Triton kernel's."""
    products = []
    kernel = gemm.gemm
    monkeypatch.setattr(gemm, "gemm", lambda *args, **options: products.append(args) or kernel(*args, **options))
    runner = runner_of(TritonRunner, tiny_config())
    draft_ids = torch.arange(3, 53)
    target = TargetRows(
        draft_token_ids=draft_ids, lm_head=runner.lm_head_rows(draft_ids), final_norm=runner.final_norm_weight()
    )
    torch.manual_seed(0)
    head = RecurrentHead(HeadShape(hidden_size=64, intermediate_size=24, rms_norm_eps=1e-5), target)
    hidden, last = torch.randn(3, 64), torch.tensor([5, 299, 40])
    contexts = [
        DraftContext(request_id="r", token_ids=(token,), hidden=state, max_draft_tokens=4, seed=0, temperature=0.0)
        for token, state in zip(last.tolist(), hidden, strict=True)
    ]

    drafts = serving_head(head, draft_ids, runner, revision="r").draft(contexts)

    assert len(products) == 4 * 3 + 1  # a token's three, and the part of 299, which is no draft token
    assert [list(draft.token_ids) for draft in drafts] == _greedy(head, draft_ids, hidden, last, runner, num_tokens=4)


def _greedy(head, draft_ids, hidden, last, runner, *, num_tokens):
    state, columns = head.start(hidden), []
    for _ in range(num_tokens):
        state = head.advance(state, head.token_part(runner.embed(last)))
        last = draft_ids[head.logits(state).argmax(dim=-1)]
        columns.append(last)
    return torch.stack(columns, dim=1).tolist()
