"""How fast: bytes per second of the card and of each product, and T(n), the time of a step over n rows per sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from bench.gpu.checks import product_shapes
from bench.gpu.device_time import seconds_of, seconds_of_calls, warm_up
from bench.gpu.records import Bandwidth, StepTime
from bench.gpu.scale import Scale
from bench.gpu.step_rows import step_rows
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.kernels import attention, gemm

PRODUCT_ROWS = (1, 4, 8, 16)


def copy_bandwidth(scale: Scale, device: torch.device) -> Bandwidth:
    """What the card reaches: bytes read and bytes written by a copy beyond its caches."""
    warm_up(device)
    source = torch.zeros(scale.copy_bytes // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    # by a kernel: a graph's own copies go by an engine that reached two thirds of what products read on an H200
    seconds = seconds_of(lambda: torch.bitwise_not(source, out=target), device=device, repeats=scale.repeats)
    return Bandwidth(name="copy", num_bytes=2 * scale.copy_bytes, seconds=seconds)


def product_bandwidths(scale: Scale, device: torch.device) -> Iterator[Bandwidth]:
    """Each product at a few rows, over as many weights in turn as no cache holds, beside torch's linear."""
    workspace = gemm.Workspace(device)
    for name, (columns, depth) in product_shapes(scale).items():
        weight_bytes = columns * depth * scale.dtype.itemsize
        count = max(1, scale.rotated_bytes // weight_bytes)
        weights = [torch.randn(columns, depth, device=device).to(scale.dtype) for _ in range(count)]
        for rows in PRODUCT_ROWS:
            x = torch.randn(rows, depth, device=device).to(scale.dtype)
            ours = partial(_through, partial(gemm.gemm, workspace=workspace), x, weights)
            torchs = partial(_through, linear, x, weights)
            moved = weight_bytes + rows * (columns + depth) * scale.dtype.itemsize
            yield Bandwidth(
                name=f"{name}, {rows} rows",
                num_bytes=moved * count,
                seconds=seconds_of(ours, device=device, repeats=scale.repeats),
                torch_seconds=seconds_of(torchs, device=device, repeats=scale.repeats),
            )


def _through(product: Callable[..., Tensor], x: Tensor, weights: Sequence[Tensor]) -> None:
    for weight in weights:
        product(x, weight)


def attention_bandwidths(scale: Scale, device: torch.device) -> Iterator[Bandwidth]:
    """Keys and values read once per sequence, whatever the rows per sequence.

    torch's operator reads contiguous keys, without pages, and doesn't hide a draft's rows from each other.
    """
    c, batch = scale.config, scale.batches[-1]
    for rows in (scale.rows_per_sequence[0], scale.rows_per_sequence[-1]):
        step = step_rows(batch=batch, rows=rows, context=scale.context, vocab_size=c.vocab_size, device=device)
        slots = step.block_tables.numel() * 16
        cache = torch.randn(2, slots, c.num_kv_heads, c.head_dim, device=device).to(scale.dtype)
        q = torch.randn(batch * rows, c.num_heads, c.head_dim, device=device).to(scale.dtype)
        attend = partial(
            attention.attention,
            q,
            cache,
            positions=step.positions,
            row_sequences=step.row_sequences,
            starts=attention.run_starts(step.row_sequences),
            block_tables=step.block_tables,
        )
        context_bytes = batch * (scale.context + rows) * 2 * c.num_kv_heads * c.head_dim * scale.dtype.itemsize
        yield Bandwidth(
            name=f"attention, {batch} x {rows} rows",
            num_bytes=context_bytes,
            seconds=seconds_of(attend, device=device, repeats=scale.repeats),
            torch_seconds=seconds_of(
                _contiguous_attention(scale, device, batch=batch, rows=rows), device=device, repeats=scale.repeats
            ),
        )


def _contiguous_attention(scale: Scale, device: torch.device, *, batch: int, rows: int) -> Callable[[], Tensor]:
    c = scale.config
    q = torch.randn(batch, c.num_heads, rows, c.head_dim, device=device).to(scale.dtype)
    keys, values = (
        torch.randn(batch, c.num_kv_heads, scale.context + rows, c.head_dim, device=device).to(scale.dtype)
        for _ in range(2)
    )
    return partial(scaled_dot_product_attention, q, keys, values, enable_gqa=True)


def step_times(
    runner: Runner,
    scale: Scale,
    device: torch.device,
    *,
    is_measured: Callable[[int, int], bool] = lambda batch, rows: True,
) -> Iterator[StepTime]:
    """T(n) of the cells that `is_measured` (batch, rows) names, as the engine calls a step, logits included."""
    warm_up(device)
    for batch in scale.batches:
        for rows in scale.rows_per_sequence:
            if is_measured(batch, rows):
                step = step_rows(
                    batch=batch, rows=rows, context=scale.context, vocab_size=scale.config.vocab_size, device=device
                )
                seconds = seconds_of_calls(partial(runner.forward, step), device=device, repeats=scale.repeats)
                yield StepTime(batch=batch, rows=rows, seconds=seconds)
