"""What a head's drafts are timed beside."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from bench.served_head_cost import CONTEXT, DRAFT_VOCABULARY, Case, measure
from bowsprit_engine.core.runner import BLOCK_SIZE

CASES = [Case(batch=1, temperature=0.0, num_tokens=4), Case(batch=3, temperature=0.8, num_tokens=2)]


class Told:
    """A runner and a head that write down what they are told."""

    config = SimpleNamespace(hidden_size=8)

    def __init__(self):
        self.calls = []

    def allocate_kv(self, num_blocks):
        self.calls.append(("blocks", num_blocks))

    def forward(self, batch):
        assert torch.equal(batch.block_tables.flatten().sort().values, torch.arange(batch.block_tables.numel()))
        self.calls.append(("step", len(batch.token_ids)))

    def draft(self, contexts, *, confidence_temperature):
        tokens = {(context.max_draft_tokens, context.temperature) for context in contexts}
        outside = sum(context.token_ids[-1] >= DRAFT_VOCABULARY for context in contexts)
        self.calls.append(("draft", len(contexts), outside, *tokens))


def test_every_call_comes_after_a_step_of_its_batch():
    """In rounds over all cases; a third of three sequences' last tokens is outside the draft vocabulary."""
    told = Told()

    costs = measure({"told": told}, told, rounds=2, cases=CASES)

    each_round = [("step", 1), ("draft", 1, 0, (4, 0.0)), ("step", 3), ("draft", 3, 1, (2, 0.8))]
    assert told.calls == [("blocks", 3 * (CONTEXT // BLOCK_SIZE + 1)), *each_round, *each_round]
    assert list(costs) == [("told", case) for case in CASES]
    assert all(cost.seconds > 0 and cost.of_step > 0 for cost in costs.values())
