"""The decoder's weights as tensors of one dtype on one device, projections that are used together joined.

For runners that compute by operators on whole tensors; the native one packs its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, Checkpoint, layer_name, take

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Of one decoder layer, norms in float32. q: queries' width, kv: keys' width, i: MLP width, h: hidden size."""

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
class DecoderWeights:
    """`lm_head` is `embedding` itself where the model ties them. `final_norm`: [h] float32."""

    embedding: Tensor  # [vocab, h]
    lm_head: Tensor  # [vocab, h]
    final_norm: Tensor
    layers: tuple[Layer, ...]

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Read them one after another. Raises ModelError naming the tensor that is missing or has another shape."""
        config = checkpoint.config

        def load(*names: str) -> Tensor:
            return torch.cat([take(checkpoint, name).to(device, dtype) for name in names])

        def layer(index: int) -> Layer:
            def weight(*parts: str) -> Tensor:
                return load(*(layer_name(index, part) for part in parts))

            def bias(has: bool, *parts: str) -> Tensor | None:
                return load(*(layer_name(index, part, "bias") for part in parts)) if has else None

            return Layer(
                window=config.window_of(index),
                attention_norm=weight("input_layernorm").float(),
                qkv=weight(*QKV),
                qkv_bias=bias(config.qkv_bias, *QKV),
                query_norm=weight("self_attn.q_norm").float() if config.qk_norm else None,
                key_norm=weight("self_attn.k_norm").float() if config.qk_norm else None,
                output=weight("self_attn.o_proj"),
                output_bias=bias(config.output_bias, "self_attn.o_proj"),
                mlp_norm=weight("post_attention_layernorm").float(),
                gate_up=weight("mlp.gate_proj", "mlp.up_proj"),
                gate_up_bias=bias(config.mlp_bias, "mlp.gate_proj", "mlp.up_proj"),
                down=weight("mlp.down_proj"),
                down_bias=bias(config.mlp_bias, "mlp.down_proj"),
            )

        embedding = load(EMBEDDING)
        return cls(
            embedding=embedding,
            lm_head=embedding if config.tie_word_embeddings else load(LM_HEAD),
            final_norm=load(FINAL_NORM).float(),
            layers=tuple(layer(index) for index in range(config.num_layers)),
        )
