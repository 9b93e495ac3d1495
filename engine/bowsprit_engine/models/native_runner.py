"""The decoder on the CPU by the native kernels: bf16 weights and KV, float32 arithmetic, rows bitwise independent.

Decides how a checkpoint's tensors become packed weights. The step itself is C++ (native/step.cpp).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.errors import ModelError
from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import PackedWeight
from bowsprit_engine.kernels.native_model import NativeLayer, NativeModel, NativeWeights
from bowsprit_engine.kernels.weight_memory import WeightMemory
from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, Checkpoint, layer_name, take
from bowsprit_engine.models.rope import rope_tables
from bowsprit_engine.native.variants import cpu_model

KV_BYTES = 2  # bf16
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class NativeRunner:
    """A `Runner` on the CPU."""

    is_row_invariant = True
    dtype = "bfloat16"

    def __init__(self, checkpoint: Checkpoint, *, num_threads: int | None) -> None:
        self.config: ModelConfig = checkpoint.config
        _check_shape(checkpoint.path, self.config)
        if num_threads is not None:
            native.set_num_threads(num_threads)
        self.num_threads = native.num_threads()
        self.accelerator = f"{cpu_model()} ({native.variant()}, {self.num_threads} threads)"
        self._weights = _load_weights(checkpoint)
        self._model = NativeModel(self.config, self._weights)

    @property
    def last_step_cpu_seconds(self) -> float:
        """Processor seconds of the last step over all threads; beside wall time it shows a contended step."""
        return self._model.last_step_cpu_seconds

    def allocate_kv(self, num_blocks: int) -> None:
        self._model.allocate_kv(num_blocks)

    def kv_bytes_per_block(self) -> int:
        c = self.config
        return c.num_layers * 2 * BLOCK_SIZE * c.num_kv_heads * c.head_dim * KV_BYTES

    def forward(self, batch: StepBatch) -> ModelOutput:
        return self._model.step(batch)

    def weights_read_each_step(self) -> list[PackedWeight]:
        """What a step's time is compared with: it can't be faster than reading these."""
        return self._weights.read_each_step()

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._weights.embedding.take_rows(token_ids)

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        return self._weights.lm_head.take_rows(token_ids)

    def final_norm_weight(self) -> Tensor:
        return self._weights.final_norm


def _check_shape(path: Path, config: ModelConfig) -> None:
    for name in ("hidden_size", "intermediate_size", "head_dim"):
        if getattr(config, name) % native.MULTIPLE:
            raise ModelError(
                f"{path}: the native backend needs {name} to be a multiple of {native.MULTIPLE}, it is "
                f"{getattr(config, name)}; the torch backend runs it",
                reason="UnsupportedModel",
            )


def _load_weights(checkpoint: Checkpoint) -> NativeWeights:
    config = checkpoint.config
    memory = WeightMemory()
    embedding = PackedWeight.of(take(checkpoint, EMBEDDING), memory)
    lm_head = embedding if config.tie_word_embeddings else PackedWeight.of(take(checkpoint, LM_HEAD), memory)
    cos, sin = rope_tables(config)
    return NativeWeights(
        embedding=embedding,
        lm_head=lm_head,
        final_norm=_norm(checkpoint, FINAL_NORM),
        cos=cos.contiguous(),
        sin=sin.contiguous(),
        layers=[_load_layer(checkpoint, layer, memory) for layer in range(config.num_layers)],
    )


def _load_layer(checkpoint: Checkpoint, layer: int, memory: WeightMemory) -> NativeLayer:
    config = checkpoint.config

    def part(name: str) -> Tensor:
        return take(checkpoint, layer_name(layer, name)).to(torch.bfloat16)

    def norm(name: str) -> Tensor:
        return _norm(checkpoint, layer_name(layer, name))

    def biases(has: bool, *names: str) -> list[Tensor] | None:
        return [take(checkpoint, layer_name(layer, name, "bias")).float() for name in names] if has else None

    qkv_bias = biases(config.qkv_bias, *QKV)
    output_bias = biases(config.output_bias, "self_attn.o_proj")
    gate_up_bias = biases(config.mlp_bias, "mlp.gate_proj", "mlp.up_proj")
    down_bias = biases(config.mlp_bias, "mlp.down_proj")
    return NativeLayer(
        qkv=PackedWeight.of(torch.cat([part(name) for name in QKV]), memory),
        qkv_bias=torch.cat(qkv_bias) if qkv_bias else None,
        query_norm=norm("self_attn.q_norm") if config.qk_norm else None,
        key_norm=norm("self_attn.k_norm") if config.qk_norm else None,
        output=PackedWeight.of(part("self_attn.o_proj"), memory),
        output_bias=output_bias[0].contiguous() if output_bias else None,
        gate_up=PackedWeight.of(alternating(part("mlp.gate_proj"), part("mlp.up_proj")), memory),
        gate_up_bias=alternating(*(bias[:, None] for bias in gate_up_bias)).flatten() if gate_up_bias else None,
        down=PackedWeight.of(part("mlp.down_proj"), memory),
        down_bias=down_bias[0].contiguous() if down_bias else None,
        attention_norm=norm("input_layernorm"),
        mlp_norm=norm("post_attention_layernorm"),
        window=config.window_of(layer),
    )


def alternating(gate: Tensor, up: Tensor) -> Tensor:  # [i, h] and [i, h] to [2 i, h]
    """Blocks of 16 gate rows and 16 up rows in turn, so that one thread has both when it computes their product."""
    blocks = [weight.reshape(-1, native.MULTIPLE, weight.shape[1]) for weight in (gate, up)]
    return torch.stack(blocks, dim=1).flatten(0, 2)


def _norm(checkpoint: Checkpoint, name: str) -> Tensor:
    return take(checkpoint, name).float().contiguous()
