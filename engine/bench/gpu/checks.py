"""Is each kernel right on this device? Against its reference at the model's shapes, bit for bit where it promises so.

Decides what is compared and how far it may be off. Knows no speed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.gpu.records import Check
from bench.gpu.scale import Scale
from bench.gpu.step_rows import blocks_per_sequence, step_rows
from bowsprit_engine.core.runner import BLOCK_SIZE
from bowsprit_engine.kernels import (
    attention,
    filters,
    gemm,
    kv_write,
    ngram,
    reference,
    rms_norm,
    rotary,
    swiglu,
    verify,
)
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.models.triton_runner import TritonRunner

# Relative to the largest value: two roundings to bf16 (2^-8 each), or float32 sums in another order.
ROUNDING = {torch.bfloat16: 2**-7, torch.float32: 1e-5}
# Through two layers in bf16, relative to the largest logit.
TWO_LAYERS = {torch.bfloat16: 0.05, torch.float32: 1e-4}


MOST_PROMPT_ROWS = 150  # enough for the kernel that walks its splits


class _Inputs:
    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.device, self._dtype = device, scale.dtype
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(shape, generator=self._generator, device=self.device)
        return drawn.to(dtype or self._dtype)

    def integers(self, *values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)


def _error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


def _differing(actual: Tensor, expected: Tensor) -> float:
    return float((actual != expected).sum())


def rows(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Norms, activation, rotary embedding, KV write."""
    inputs = _Inputs(scale, device)
    c, limit = scale.config, ROUNDING[scale.dtype]
    num_rows = scale.check_rows[-1]
    x, residual = inputs.normal(num_rows, c.hidden_size), inputs.normal(num_rows, c.hidden_size)
    weight = inputs.normal(c.hidden_size, dtype=torch.float32)
    expected, total = rms_norm.reference(x, weight, eps=c.rms_norm_eps, residual=residual)
    actual = rms_norm.rms_norm(x, weight, eps=c.rms_norm_eps, residual=residual)
    yield Check(name="rms_norm", error=_error(actual, expected), limit=limit)
    yield Check(name="rms_norm's residual", error=_error(residual, total), limit=limit)

    gate_up = inputs.normal(num_rows, 2 * c.intermediate_size)
    yield Check(name="swiglu", error=_error(swiglu.swiglu(gate_up), swiglu.reference(gate_up)), limit=limit)

    heads = inputs.normal(num_rows, c.num_heads, c.head_dim)
    angles = inputs.normal(scale.context, c.head_dim // 2, dtype=torch.float32)
    positions = torch.arange(num_rows, dtype=torch.int32, device=inputs.device) % scale.context
    turned = rotary.reference(heads, positions, angles.cos(), angles.sin())
    rotary.rotate(heads, positions, angles.cos(), angles.sin())
    yield Check(name="rotary", error=_error(heads, turned), limit=limit)

    fused = inputs.normal(num_rows, 2 * c.num_kv_heads, c.head_dim)
    caches = [
        torch.zeros(2, num_rows * BLOCK_SIZE, c.num_kv_heads, c.head_dim, dtype=scale.dtype, device=inputs.device)
        for _ in range(2)
    ]
    where = {
        "positions": inputs.integers(*range(num_rows)),
        "row_sequences": inputs.integers(*[0] * num_rows),
        "block_tables": torch.randperm(num_rows).to(inputs.device, torch.int32)[None],
    }
    for cache, write in zip(caches, (kv_write.kv_write, kv_write.reference), strict=True):
        write(fused[:, : c.num_kv_heads], fused[:, c.num_kv_heads :], cache=cache, **where)
    yield Check(name="kv_write (elements that differ)", error=_differing(*caches), limit=0)


def product_shapes(scale: Scale) -> dict[str, tuple[int, int]]:
    """Columns and depth of each product of a layer, and the LM head's."""
    c = scale.config
    return {
        "qkv": ((c.num_heads + 2 * c.num_kv_heads) * c.head_dim, c.hidden_size),
        "output": (c.hidden_size, c.num_heads * c.head_dim),
        "gate and up": (2 * c.intermediate_size, c.hidden_size),
        "down": (c.hidden_size, c.intermediate_size),
        "LM head": (c.vocab_size, c.hidden_size),
    }


def products(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Each product of the model, at every width of a tile."""
    inputs = _Inputs(scale, device)
    workspace = gemm.Workspace(inputs.device)
    for name, (columns, depth) in product_shapes(scale).items():
        x, weight = inputs.normal(scale.check_rows[-1], depth), inputs.normal(columns, depth)
        by_rows = {count: gemm.gemm(x[:count], weight, workspace=workspace) for count in scale.check_rows}
        error = max(_error(product, gemm.reference(x[:count], weight)) for count, product in by_rows.items())
        yield Check(name=f"gemm, {name}", error=error, limit=ROUNDING[scale.dtype])
        widest = by_rows[scale.check_rows[-1]]
        differing = sum(_differing(product, widest[: len(product)]) for product in by_rows.values())
        last = gemm.gemm(x[-1:], weight, workspace=workspace)
        differing += _differing(last, widest[-1:])
        yield Check(name=f"gemm, {name}: bits that depend on other rows", error=differing, limit=0)
        again = [gemm.gemm(x[:1], weight, workspace=workspace) for _ in range(scale.repeats)]
        differing = sum(_differing(product, widest[:1]) for product in again)
        yield Check(name=f"gemm, {name}: bits that depend on which program was last", error=differing, limit=0)


def attentions(scale: Scale, device: torch.device) -> Iterator[Check]:
    """A prompt's chunk, a draft and a decode row over one shuffled cache, with and without a window."""
    inputs = _Inputs(scale, device)
    c, limit = scale.config, ROUNDING[scale.dtype]
    spans = [(0, min(40, scale.context)), (scale.context - 9, scale.context), (scale.context - 2, scale.context - 1)]
    own_rows = [(position, index) for index, (begin, end) in enumerate(spans) for position in range(begin, end)]
    num_blocks = -(-scale.context // BLOCK_SIZE)
    cache = inputs.normal(2, len(spans) * num_blocks * BLOCK_SIZE, c.num_kv_heads, c.head_dim)
    q = inputs.normal(len(own_rows), c.num_heads, c.head_dim)
    positions, sequences = (inputs.integers(*column) for column in zip(*own_rows, strict=True))
    tables = torch.randperm(len(spans) * num_blocks).reshape(len(spans), num_blocks).to(inputs.device, torch.int32)

    def attend(first: int, end: int, window: int | None, walk_above: int = attention.WALK_ABOVE) -> Tensor:
        own = sequences[first:end].contiguous()
        return attention.attention(
            q[first:end],
            cache,
            positions=positions[first:end].contiguous(),
            row_sequences=own,
            starts=attention.run_starts(own),
            block_tables=tables,
            window=window,
            walk_above=walk_above,
        )

    for window in (None, max(1, scale.context // 3)):
        expected = attention.reference(
            q, cache, positions=positions, row_sequences=sequences, block_tables=tables, window=window
        )
        together = attend(0, len(own_rows), window)
        yield Check(name=f"attention, window {window}", error=_error(together, expected), limit=2 * limit)
        differing = _differing(attend(0, len(own_rows), window, walk_above=0), together)
        for row in (0, 1, len(own_rows) - 10, len(own_rows) - 5, len(own_rows) - 1):
            differing += _differing(attend(row, row + 1, window)[0], together[row])
        yield Check(name=f"attention, window {window}: bits that depend on other rows", error=differing, limit=0)


def sampling(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Filters, and the draw with its count of accepted drafts."""
    inputs = _Inputs(scale, device)
    vocab, num_rows = scale.config.vocab_size, 24
    logits = 3 * inputs.normal(num_rows, vocab, dtype=torch.float32)
    parameters = list(itertools.product((0.0, 0.7, 1.2), (0, 40), (1.0, 0.9), (0.0, 0.05)))
    columns = [torch.tensor(column, device=inputs.device) for column in zip(*parameters, strict=True)]
    columns[1] = columns[1].to(torch.int32)
    kept = filters.filter_logits(logits, *columns)
    wrong = _differing(kept, filters.reference(logits, *columns))
    # another order of float32 sums may put a token or two on the other side of top_p
    yield Check(name="filters (tokens that differ)", error=wrong, limit=num_rows // 4)

    repeats = filters.programs_at_once(device) // num_rows + 1  # of a row, until each has one program
    many = filters.filter_logits(*(part.repeat_interleave(repeats, dim=0) for part in (logits, *columns)))
    differing = _differing(many[::repeats], kept)
    for row in range(0, num_rows, 5):
        alone = filters.filter_logits(*(part[row : row + 1] for part in (logits, *columns)))
        differing += _differing(alone, kept[row : row + 1])
    yield Check(name="filters: bits that depend on other rows", error=differing, limit=0)

    arguments = {
        "row_starts": inputs.integers(0, 9, num_rows),
        "seeds": torch.tensor([5, -(2**61)], device=inputs.device),
        "positions": inputs.integers(100, 7),
    }
    for name, temperature, limit in (("greedy", 0.0, 0), ("at temperature 0.8", 0.8, 1)):
        arguments["temperature"] = torch.full((2,), temperature, device=inputs.device)
        drafts = torch.zeros(num_rows, dtype=torch.int64, device=inputs.device)
        drafts[:] = reference.verify(logits, drafts=drafts, **arguments)[0].to(inputs.device)
        drafts[4] = (drafts[4] + 1) % vocab
        expected, accepted = reference.verify(logits, drafts=drafts, **arguments)
        actual, counted = verify.verify(logits, drafts=drafts, **arguments)
        # logarithms differ by an ulp between libraries: at a near tie a row may draw another token, ever the same here
        differing = _differing(actual.cpu(), expected.cpu())
        yield Check(name=f"verify, {name} (rows that differ)", error=differing, limit=limit)
        again, _ = verify.verify(logits[:1], **_first_row(arguments, drafts))
        yield Check(name=f"verify, {name}: a row alone", error=_differing(again, actual[:1]), limit=0)
        if not differing:
            yield Check(name=f"verify, {name}: accepted", error=_differing(counted.cpu(), accepted.cpu()), limit=0)
    # The winner's word is among the largest, where a logarithm that is only nearly right shows most. No near ties:
    # next to 1, noise of neighbouring words is a hundredth apart.
    flat = torch.zeros(num_rows, vocab, device=inputs.device)
    expected, _ = reference.verify(flat, drafts=drafts, **arguments)
    actual, _ = verify.verify(flat, drafts=drafts, **arguments)
    yield Check(name="verify, noise alone (rows that differ)", error=_differing(actual.cpu(), expected.cpu()), limit=0)


def _first_row(arguments: dict[str, Tensor], drafts: Tensor) -> dict[str, Tensor]:
    starts = arguments["row_starts"].new_tensor([0, 1])
    parts = {name: arguments[name][:1] for name in ("seeds", "positions", "temperature")}
    return {"row_starts": starts, "drafts": drafts[:1], **parts}


def look_up(scale: Scale, device: torch.device) -> Iterator[Check]:
    """n-gram match and draft."""
    inputs = _Inputs(scale, device)
    tokens = torch.randint(0, 5, (8, scale.context), generator=torch.Generator().manual_seed(1)).to(inputs.device)
    lengths = inputs.integers(*(scale.context - 2 * index for index in range(8)))
    expected = ngram.reference(tokens, lengths, num_draft_tokens=8)
    actual = ngram.look_up(tokens, lengths, num_draft_tokens=8)
    differing = sum(_differing(ours, definition) for ours, definition in zip(actual, expected, strict=True))
    yield Check(name="ngram (elements that differ)", error=differing, limit=0)


def runner(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Two layers of the model: torch's logits, and equal bits through graphs, launches, alone and together."""
    config = dataclasses.replace(scale.config, num_layers=min(2, scale.config.num_layers))
    checkpoint = RandomCheckpoint(Path("random"), config, device=device)
    ours, torchs = (kind(checkpoint, dtype=scale.dtype, device=device) for kind in (TritonRunner, TorchRunner))
    num_rows = min(scale.context, MOST_PROMPT_ROWS)
    for each in (ours, torchs):
        each.allocate_kv(blocks_per_sequence(num_rows))
    prompt = step_rows(batch=1, rows=num_rows, context=0, vocab_size=config.vocab_size, device=device)
    expected, together = torchs.forward(prompt).logits, ours.forward(prompt).logits
    yield Check(name="runner, two layers", error=_error(together, expected), limit=TWO_LAYERS[scale.dtype])
    differing = 0.0
    for begin, count in ((0, 1), (1, 1), (num_rows - 9, 9), (num_rows - 1, 1)):
        alone = dataclasses.replace(
            prompt,
            token_ids=prompt.token_ids[begin : begin + count],
            positions=prompt.positions[begin : begin + count],
            row_sequences=prompt.row_sequences[:count],
            logit_rows=prompt.logit_rows[:count],
        )
        differing += _differing(ours.forward(alone).logits, together[begin : begin + count])
    yield Check(name="runner: bits that depend on other rows", error=differing, limit=0)
    launched = dataclasses.replace(prompt, logit_rows=prompt.logit_rows[1:])  # no graph: not all logits are wanted
    differing = _differing(ours.forward(launched).logits, together[1:])
    yield Check(name="runner: bits that depend on graphs", error=differing, limit=0)
