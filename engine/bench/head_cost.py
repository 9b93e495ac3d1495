"""What one draft costs beside the target's own step: each design in a serving form, interleaved with steps.

    PYTHONPATH=engine python -m bench.head_cost --model MODEL --out COSTS.json

Decides the serving forms of designs that don't serve: products by the native kernels, keys and values of verified rows
kept in a plain tensor, the rest torch's operators at one sequence. Every draft begins with two newly verified rows
(which a head with a cache has to take in first) after 256 others. Weights are random: time doesn't depend on them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from bench.head_attention import HEAD_DIM, Mlp, rotated
from bench.head_block import BlockHead, BlockLayer
from bench.head_eagle import EagleHead
from bench.head_states import NUM_LAYERS_KEPT
from bench.head_weights import weights_read
from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.kernels.native import PackedLinear
from bowsprit_engine.models import load_model
from bowsprit_engine.models.checkpoint import tensor_shapes
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows, norm

CONTEXT = 256
NEW_ROWS = 2
DRAFT_VOCABULARY = 2048
DRAFT_LENGTHS = (4, 8)
STEP_ROWS = (1, 2, 3, 5, 9, 17)
ROUNDS = 60

Draft = Callable[[int], object]  # of so many tokens


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[n, heads, HEAD_DIM] over [T, kv_heads, HEAD_DIM], without a mask: to [n, D]."""
    mixed = functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[None], keys.transpose(0, 1)[None], values.transpose(0, 1)[None], enable_gqa=True
    )
    return mixed[0].transpose(0, 1).flatten(1)


def mlp_of(mlp: Mlp) -> Callable[[Tensor], Tensor]:
    gate_up, down = PackedLinear(mlp.gate_up.detach()), PackedLinear(mlp.down.detach())

    def run(x: Tensor) -> Tensor:
        gate, up = gate_up(x).chunk(2, dim=-1)
        return down(functional.silu(gate) * up)

    return run


def recurrent_head(runner: Runner, target: TargetRows, width: int) -> RecurrentHead:
    config = runner.config
    shape = HeadShape(hidden_size=config.hidden_size, intermediate_size=width, rms_norm_eps=config.rms_norm_eps)
    return RecurrentHead(shape, target)


def recurrent(head: RecurrentHead, runner: Runner, target: TargetRows) -> Draft:
    """The one that serves, by its own code; in batches and sampled: bench/served_head_cost.py."""
    served = serving_head(head, target.draft_token_ids, runner, revision="timed")
    hidden = torch.randn(runner.config.hidden_size)

    def draft(num_tokens: int) -> object:
        context = DraftContext(
            request_id="", token_ids=(5,), hidden=hidden, max_draft_tokens=num_tokens, seed=0, temperature=0.0
        )
        return served.draft([context])

    return draft


def eagle(head: EagleHead, target: TargetRows, embedding: Tensor) -> Draft:
    """Takes in the new rows, then a layer per drafted token."""
    fuse, qkv, out = (PackedLinear(weight.detach()) for weight in (head.fuse, head.qkv, head.out))
    mlp, lm_head = mlp_of(head.mlp), PackedLinear(target.lm_head)
    keys = torch.randn(CONTEXT + NEW_ROWS + max(DRAFT_LENGTHS), head.kv_heads, HEAD_DIM)
    values = torch.randn_like(keys)
    features = torch.randn(NEW_ROWS, NUM_LAYERS_KEPT, target.final_norm.numel())

    def projected(states: Tensor, tokens: Tensor, begin: int) -> Tensor:
        pair = torch.cat([norm(embedding[tokens], head.eps), norm(states, head.eps)], dim=-1)
        split = qkv(pair).view(len(tokens), -1, HEAD_DIM)
        places = torch.arange(begin, begin + len(tokens))
        turned = rotated(split[:, : head.heads + head.kv_heads], places)
        keys[begin : begin + len(tokens)] = turned[:, head.heads :]
        values[begin : begin + len(tokens)] = split[:, head.heads + head.kv_heads :]
        return turned[-1:, : head.heads]

    def draft(num_tokens: int) -> object:
        states = fuse(norm(features, head.eps).flatten(1))
        tokens = torch.tensor([5] * NEW_ROWS)
        begin = CONTEXT
        found = []
        for _ in range(num_tokens):
            queries = projected(states, tokens, begin)
            begin += len(tokens)
            state = states[-1:] + out(attention(queries, keys[:begin], values[:begin]))
            states = state + mlp(norm(state, head.eps))
            logits = lm_head(norm(states, head.eps))
            best = logits.argmax(dim=-1)
            sure = 1 / (logits - logits.amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
            tokens = target.draft_token_ids[best]
            found.append((tokens.item(), sure.item()))
        return found

    return draft


def block(head: BlockHead, target: TargetRows, embedding: Tensor) -> Draft:
    """Takes in the new rows, then two layers for the whole block."""
    fuse, token, lm_head = (
        PackedLinear(head.fuse.detach()),
        PackedLinear(head.token.detach()),
        PackedLinear(target.lm_head),
    )
    layers = [_block_layer(layer) for layer in head.layers if isinstance(layer, BlockLayer)]
    features = torch.randn(NEW_ROWS, NUM_LAYERS_KEPT, target.final_norm.numel())
    new_places = torch.arange(CONTEXT, CONTEXT + NEW_ROWS)

    def draft(num_tokens: int) -> object:
        fused = fuse(norm(features, head.eps).flatten(1))
        context = norm(fused, head.eps)
        rows = fused[-1:] + token(norm(embedding[torch.tensor([5])], head.eps)) + head.slots[:num_tokens].detach()
        places = torch.arange(CONTEXT + NEW_ROWS, CONTEXT + NEW_ROWS + num_tokens)
        for layer in layers:
            rows = layer(rows, context, new_places, places)
        logits = lm_head(norm(rows, head.eps))
        sure = 1 / (logits - logits.amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
        return target.draft_token_ids[logits.argmax(dim=-1)].tolist(), sure.tolist()

    return draft


def _block_layer(layer: BlockLayer) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    query_key_value = PackedLinear(torch.cat([layer.query, layer.key_value]).detach())
    key_value, out, mlp = PackedLinear(layer.key_value.detach()), PackedLinear(layer.out.detach()), mlp_of(layer.mlp)
    keys = torch.randn(CONTEXT + NEW_ROWS + max(DRAFT_LENGTHS), layer.kv_heads, HEAD_DIM)
    values = torch.randn_like(keys)
    heads, kv_heads = layer.heads, layer.kv_heads

    def run(rows: Tensor, context: Tensor, new_places: Tensor, places: Tensor) -> Tensor:
        new_keys, new_values = key_value(context).view(len(context), -1, HEAD_DIM).chunk(2, dim=1)
        split = query_key_value(norm(rows, 1e-5)).view(len(rows), -1, HEAD_DIM)
        turned = rotated(split[:, : heads + kv_heads], places)
        keys[CONTEXT : CONTEXT + NEW_ROWS], values[CONTEXT : CONTEXT + NEW_ROWS] = (
            rotated(new_keys, new_places),
            new_values,
        )
        end = CONTEXT + NEW_ROWS + len(rows)
        keys[CONTEXT + NEW_ROWS : end], values[CONTEXT + NEW_ROWS : end] = (
            turned[:, heads:],
            split[:, heads + kv_heads :],
        )
        rows = rows + out(attention(turned[:, :heads], keys[:end], values[:end]))
        return rows + mlp(norm(rows, 1e-5))

    return run


def target_steps(runner: Runner) -> dict[int, Callable[[], object]]:
    """Steps of one sequence after 256 tokens, by their rows."""
    num_blocks = -(-(CONTEXT + max(STEP_ROWS)) // BLOCK_SIZE)
    runner.allocate_kv(num_blocks)

    def batch(rows: int) -> StepBatch:
        return StepBatch(
            token_ids=torch.full((rows,), 5),
            positions=torch.arange(CONTEXT, CONTEXT + rows, dtype=torch.int32),
            row_sequences=torch.zeros(rows, dtype=torch.int32),
            block_tables=torch.arange(num_blocks, dtype=torch.int32)[None],
            logit_rows=torch.arange(rows),
        )

    return {rows: partial(runner.forward, batch(rows)) for rows in STEP_ROWS}


@torch.inference_mode()
def main(
    model: Annotated[Path, typer.Option(help="The target.")],
    out: Annotated[Path, typer.Option(help="Where figures are written, as JSON.")],
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Time drafts and steps in turn; medians."""
    torch.set_num_threads(1)
    runner = load_model(model, max_model_len=1024, num_threads=threads).runner
    ids = torch.arange(DRAFT_VOCABULARY)
    target = TargetRows(draft_token_ids=ids, lm_head=runner.lm_head_rows(ids), final_norm=runner.final_norm_weight())
    embedding = runner.embed(torch.arange(runner.config.vocab_size))
    steps = target_steps(runner)
    eps = runner.config.rms_norm_eps
    narrow, wide = recurrent_head(runner, target, 512), recurrent_head(runner, target, 1152)
    eagle_head = EagleHead(target, embedding, intermediate_size=512, eps=eps)
    block_head = BlockHead(target, embedding, intermediate_size=256, eps=eps, block=max(DRAFT_LENGTHS))
    heads: dict[str, nn.Module] = {
        "recurrent": narrow,
        "recurrent-wide": wide,
        "eagle": eagle_head,
        "block": block_head,
    }
    drafts: dict[str, Draft] = {
        "recurrent": recurrent(narrow, runner, target),
        "recurrent-wide": recurrent(wide, runner, target),
        "eagle": eagle(eagle_head, target, embedding),
        "block": block(block_head, target, embedding),
    }
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for rows, step in steps.items():
            times.setdefault(("step", rows), []).append(_timed(step))
        for name, draft in drafts.items():
            for length in DRAFT_LENGTHS:
                steps[1]()  # drafts come between steps: caches are as steps leave them
                times.setdefault((name, length), []).append(_timed(partial(draft, length)))
    step_seconds = statistics.median(times["step", 1])
    target_weights = sum(prod(shape) for shape in tensor_shapes(runner.config).values())
    figures = {
        name: {
            "seconds": {length: statistics.median(times[name, length]) for length in DRAFT_LENGTHS},
            "of_step": {length: statistics.median(times[name, length]) / step_seconds for length in DRAFT_LENGTHS},
            "share_of_weights": {
                length: weights_read(heads[name], length) / target_weights for length in DRAFT_LENGTHS
            },
        }
        for name in drafts
    }
    figures["recurrent-fused"] = figures["recurrent"]
    figures["eagle-window"] = figures["eagle"]
    curve = {rows: statistics.median(times["step", rows]) for rows in STEP_ROWS}
    out.write_text(json.dumps({"step_seconds": curve, **figures}, indent=1))
    print(out.read_text())


def _timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    typer.run(main)
