"""The decoder in plain torch operators, on any device: the definition that other runners are tested against.

Correctness first: each sequence's rows attend over its whole context, gathered from the paged cache. Rows are not
bitwise independent of the number of rows, since torch picks kernels by shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.models.checkpoint import Checkpoint
from bowsprit_engine.models.decoder_weights import DecoderWeights, Layer
from bowsprit_engine.models.rope import rope_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRows:
    """The rows `begin`..`end` of one sequence; `slots` holds its context in order of position."""

    begin: int
    end: int
    slots: Tensor  # [context] int64
    hides: Mapping[int | None, Tensor]  # by a layer's window: [rows, context] bool, True where the row must not look


class TorchRunner:
    """A `Runner`. Weights, activations and KV are in `dtype`; norms, softmax and logits in float32."""

    is_row_invariant = False

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        self.config: ModelConfig = checkpoint.config
        self.dtype = str(dtype).removeprefix("torch.")
        self.num_threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.accelerator = _accelerator(device, self.num_threads)
        self._dtype, self._device = dtype, device
        weights = DecoderWeights.load(checkpoint, dtype=dtype, device=device)
        self._embedding, self._lm_head = weights.embedding, weights.lm_head
        self._final_norm, self._layers = weights.final_norm, weights.layers
        cos, sin = rope_tables(self.config)
        self._cos, self._sin = cos.to(device), sin.to(device)
        self._kv: Tensor | None = None  # [layers, 2, slots, kv_heads, head_dim]

    def allocate_kv(self, num_blocks: int) -> None:
        c = self.config
        shape = (c.num_layers, 2, num_blocks * BLOCK_SIZE, c.num_kv_heads, c.head_dim)
        self._kv = torch.zeros(shape, dtype=self._dtype, device=self._device)

    def kv_bytes_per_block(self) -> int:
        c = self.config
        return c.num_layers * 2 * BLOCK_SIZE * c.num_kv_heads * c.head_dim * self._dtype.itemsize

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> ModelOutput:
        if self._kv is None:
            raise RuntimeError("allocate_kv comes before the first step")
        groups = self._group(batch)
        positions = batch.positions.long()
        blocks = batch.block_tables.long()[batch.row_sequences.long(), positions // BLOCK_SIZE]
        own_slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
        x = self._embedding[batch.token_ids]
        for layer, kv in zip(self._layers, self._kv, strict=True):
            q, k, v = self._qkv(layer, self._norm(x, layer.attention_norm), positions)
            kv[0, own_slots], kv[1, own_slots] = k, v
            attended = torch.cat([self._attend(q[g.begin : g.end], kv, g, layer.window) for g in groups])
            x = x + linear(attended, layer.output, layer.output_bias)
            gate, up = linear(self._norm(x, layer.mlp_norm), layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + linear(silu(gate) * up, layer.down, layer.down_bias)
        logits = linear(self._norm(x[batch.logit_rows], self._final_norm), self._lm_head)
        return ModelOutput(logits=logits.float(), hidden=x.float())

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._embedding[token_ids.to(self._device)].float()

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        return self._lm_head[token_ids.to(self._device)].float()

    def final_norm_weight(self) -> Tensor:
        return self._final_norm

    def _group(self, batch: StepBatch) -> list[SequenceRows]:
        windows = {layer.window for layer in self._layers}
        sequences, counts = torch.unique_consecutive(batch.row_sequences, return_counts=True)
        groups, begin = [], 0
        for sequence, count in zip(sequences.tolist(), counts.tolist(), strict=True):
            own = batch.positions[begin : begin + count].long()
            context = torch.arange(int(own[-1]) + 1, device=self._device)
            slots = batch.block_tables[sequence].long()[context // BLOCK_SIZE] * BLOCK_SIZE + context % BLOCK_SIZE
            hides = {window: _hidden(own, context, window) for window in windows}
            groups.append(SequenceRows(begin=begin, end=begin + count, slots=slots, hides=hides))
            begin += count
        return groups

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x.float(), x.shape[-1:], weight, self.config.rms_norm_eps).to(self._dtype)

    def _qkv(
        self,
        layer: Layer,
        normed: Tensor,  # [rows, hidden]
        positions: Tensor,  # [rows]
    ) -> tuple[Tensor, Tensor, Tensor]:  # each [rows, heads, head_dim]; q and k rotated
        c = self.config
        heads = linear(normed, layer.qkv, layer.qkv_bias).view(normed.shape[0], -1, c.head_dim)
        first_v = c.num_heads + c.num_kv_heads
        q, k, v = heads[:, : c.num_heads], heads[:, c.num_heads : first_v], heads[:, first_v:]
        if layer.query_norm is not None and layer.key_norm is not None:
            q, k = self._norm(q, layer.query_norm), self._norm(k, layer.key_norm)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        return _rotated(q, cos, sin), _rotated(k, cos, sin), v

    def _attend(
        self,
        q: Tensor,  # [rows, heads, head_dim], of one sequence
        kv: Tensor,  # [2, slots, kv_heads, head_dim]
        group: SequenceRows,
        window: int | None,
    ) -> Tensor:  # [rows, heads * head_dim]
        c = self.config
        grouped = q.float().reshape(q.shape[0], c.num_kv_heads, -1, c.head_dim) * c.head_dim**-0.5
        keys, values = kv[0, group.slots].float(), kv[1, group.slots].float()
        scores = torch.einsum("rghd,cgd->rghc", grouped, keys)
        weights = scores.masked_fill(group.hides[window][:, None, None], -torch.inf).softmax(dim=-1)
        return torch.einsum("rghc,cgd->rghd", weights, values).flatten(1).to(self._dtype)


def _hidden(
    own: Tensor,  # [rows], each row's position
    context: Tensor,  # [context], positions
    window: int | None,
) -> Tensor:  # [rows, context] bool
    """Later tokens, and those that have left the window, which holds the row itself and `window` - 1 before it."""
    later = context[None] > own[:, None]
    return later if window is None else later | (context[None] <= own[:, None] - window)


def _rotated(
    heads: Tensor,  # [rows, heads, head_dim]
    cos: Tensor,  # [rows, 1, head_dim / 2]
    sin: Tensor,  # [rows, 1, head_dim / 2]
) -> Tensor:
    first, second = heads.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(heads.dtype)


def _accelerator(device: torch.device, num_threads: int) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (torch)"
    return f"{device.type} (torch, {num_threads} threads)"
