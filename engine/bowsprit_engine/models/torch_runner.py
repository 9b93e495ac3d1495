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
from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, Checkpoint, layer_name, take
from bowsprit_engine.models.rope import rope_tables

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one decoder layer. q: queries' width, kv: keys' width, i: MLP width, h: hidden size."""

    window: int | None  # most tokens that a row attends to
    attention_norm: Tensor  # [h]
    qkv: Tensor  # [q + 2 kv, h]
    qkv_bias: Tensor | None  # [q + 2 kv]
    query_norm: Tensor | None  # [head_dim]
    key_norm: Tensor | None  # [head_dim]
    output: Tensor  # [h, q]
    output_bias: Tensor | None  # [h]
    mlp_norm: Tensor  # [h]
    gate_up: Tensor  # [2 i, h]
    gate_up_bias: Tensor | None  # [2 i]
    down: Tensor  # [h, i]
    down_bias: Tensor | None  # [h]


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
        self._embedding = self._load(checkpoint, EMBEDDING)
        self._lm_head = self._embedding if self.config.tie_word_embeddings else self._load(checkpoint, LM_HEAD)
        self._final_norm = self._load(checkpoint, FINAL_NORM).float()
        self._layers = [self._load_layer(checkpoint, layer) for layer in range(self.config.num_layers)]
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

    def _load(self, checkpoint: Checkpoint, *names: str) -> Tensor:
        return torch.cat([take(checkpoint, name).to(self._device, self._dtype) for name in names])

    def _load_layer(self, checkpoint: Checkpoint, layer: int) -> Layer:
        c = self.config

        def load(*parts: str) -> Tensor:
            return self._load(checkpoint, *(layer_name(layer, part) for part in parts))

        def bias(has: bool, *parts: str) -> Tensor | None:
            return self._load(checkpoint, *(layer_name(layer, part, "bias") for part in parts)) if has else None

        return Layer(
            window=c.window_of(layer),
            attention_norm=load("input_layernorm").float(),
            qkv=load(*QKV),
            qkv_bias=bias(c.qkv_bias, *QKV),
            query_norm=load("self_attn.q_norm").float() if c.qk_norm else None,
            key_norm=load("self_attn.k_norm").float() if c.qk_norm else None,
            output=load("self_attn.o_proj"),
            output_bias=bias(c.output_bias, "self_attn.o_proj"),
            mlp_norm=load("post_attention_layernorm").float(),
            gate_up=load("mlp.gate_proj", "mlp.up_proj"),
            gate_up_bias=bias(c.mlp_bias, "mlp.gate_proj", "mlp.up_proj"),
            down=load("mlp.down_proj"),
            down_bias=bias(c.mlp_bias, "mlp.down_proj"),
        )

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
