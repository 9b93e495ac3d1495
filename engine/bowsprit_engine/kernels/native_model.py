"""A whole decoder step in C++: packed weights, norms and rotary tables in, logits and hidden states out.

Keeps alive every tensor that C++ points into. Knows nothing of model files: models/native_runner.py feeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.kernels.native import PackedWeight, check, library
from bowsprit_engine.kernels.native_abi import LayerArgs, ModelArgs, Shape, StepArgs

NO_WINDOW = 1 << 40  # tokens, more than any context


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLayer:
    """Weights of one layer. In `gate_up` and its bias, blocks of 16 gate rows and 16 up rows alternate."""

    qkv: PackedWeight
    output: PackedWeight
    gate_up: PackedWeight
    down: PackedWeight
    attention_norm: Tensor  # [hidden] float32
    mlp_norm: Tensor  # [hidden] float32
    query_norm: Tensor | None = None  # [head_dim] float32
    key_norm: Tensor | None = None  # [head_dim] float32
    qkv_bias: Tensor | None = None  # [(heads + 2 kv_heads) * head_dim] float32
    output_bias: Tensor | None = None  # [hidden] float32
    gate_up_bias: Tensor | None = None  # [2 * intermediate] float32
    down_bias: Tensor | None = None  # [hidden] float32
    window: int | None = None  # most tokens that a row attends to


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeWeights:
    """All weights of a decoder. A tied LM head is the same object as the embedding."""

    embedding: PackedWeight
    lm_head: PackedWeight
    final_norm: Tensor  # [hidden] float32
    cos: Tensor  # [max_model_len, head_dim / 2] float32
    sin: Tensor  # [max_model_len, head_dim / 2] float32
    layers: Sequence[NativeLayer]

    def read_each_step(self) -> list[PackedWeight]:
        """Weights that a step reads whole, whatever its rows: of the embedding it takes its rows only."""
        return [w for layer in self.layers for w in (layer.qkv, layer.output, layer.gate_up, layer.down)] + [
            self.lm_head
        ]


class NativeModel:
    """Not thread-safe. `last_step_cpu_seconds` is processor time summed over the threads of the last step."""

    def __init__(self, config: ModelConfig, weights: NativeWeights) -> None:
        self._config, self._weights = config, weights
        self._kv: Tensor | None = None
        self.last_step_cpu_seconds = 0.0
        layers = (LayerArgs * len(weights.layers))(*(_layer_args(layer) for layer in weights.layers))
        args = ModelArgs(
            shape=_shape(config),
            embedding=weights.embedding.args(),
            lm_head=weights.lm_head.args(),
            final_norm=weights.final_norm.data_ptr(),
            cos=weights.cos.data_ptr(),
            sin=weights.sin.data_ptr(),
            layers=layers,
        )
        self._library = library()
        self._handle: int | None = self._library.bowsprit_model_new(byref(args))
        if self._handle is None:
            check(self._library, 1)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.bowsprit_model_free(self._handle)
            self._handle = None

    def allocate_kv(self, num_blocks: int) -> None:
        """bf16 keys and values. Pages become real memory only when a block is first written."""
        c = self._config
        self._kv = torch.empty(
            c.num_layers * num_blocks * c.num_kv_heads * 2 * BLOCK_SIZE * c.head_dim, dtype=torch.bfloat16
        )
        self._library.bowsprit_model_set_kv(self._handle, self._kv.data_ptr(), num_blocks)

    def step(self, batch: StepBatch) -> ModelOutput:
        """One step.

        Raises ValueError for tensors of unequal lengths, and RuntimeError for rows outside the vocabulary, the
        positions or the KV cache.
        """
        token_ids = batch.token_ids.to(torch.int64).contiguous()
        positions = batch.positions.to(torch.int32).contiguous()
        row_sequences = batch.row_sequences.to(torch.int32).contiguous()
        block_tables = batch.block_tables.to(torch.int32).contiguous()
        logit_rows = batch.logit_rows.to(torch.int64).contiguous()
        if not token_ids.numel() == positions.numel() == row_sequences.numel():
            raise ValueError(
                f"{token_ids.numel()} token ids, {positions.numel()} positions and {row_sequences.numel()} sequences "
                "of rows: one of each is a row"
            )
        hidden = torch.empty(token_ids.numel(), self._config.hidden_size)
        logits = torch.empty(logit_rows.numel(), self._config.vocab_size)
        args = StepArgs(
            num_rows=token_ids.numel(),
            num_sequences=block_tables.shape[0],
            max_blocks=block_tables.shape[1],
            num_logit_rows=logit_rows.numel(),
            token_ids=token_ids.data_ptr(),
            positions=positions.data_ptr(),
            row_sequences=row_sequences.data_ptr(),
            block_tables=block_tables.data_ptr(),
            logit_rows=logit_rows.data_ptr(),
            hidden=hidden.data_ptr(),
            logits=logits.data_ptr(),
        )
        check(self._library, self._library.bowsprit_model_step(self._handle, byref(args)))
        self.last_step_cpu_seconds = args.cpu_seconds
        return ModelOutput(logits=logits, hidden=hidden)


def _layer_args(layer: NativeLayer) -> LayerArgs:
    return LayerArgs(
        qkv=layer.qkv.args(),
        output=layer.output.args(),
        gate_up=layer.gate_up.args(),
        down=layer.down.args(),
        attention_norm=layer.attention_norm.data_ptr(),
        mlp_norm=layer.mlp_norm.data_ptr(),
        query_norm=_pointer(layer.query_norm),
        key_norm=_pointer(layer.key_norm),
        qkv_bias=_pointer(layer.qkv_bias),
        output_bias=_pointer(layer.output_bias),
        gate_up_bias=_pointer(layer.gate_up_bias),
        down_bias=_pointer(layer.down_bias),
        window=NO_WINDOW if layer.window is None else layer.window,
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _shape(config: ModelConfig) -> Shape:
    return Shape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_positions=config.max_model_len,
        rms_norm_eps=config.rms_norm_eps,
    )
