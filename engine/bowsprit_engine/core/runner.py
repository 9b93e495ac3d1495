"""The seam between the step and a model: a runner executes rows of tokens against a paged KV cache.

Implementations: `models/native_runner.py` (C++ kernels on the CPU, rows bitwise independent of the number of rows)
and `models/torch_runner.py` (torch's operators, any device). The registry in `models/__init__.py` names them in
its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bowsprit_engine.core.rope_scaling import RopeScaling

BLOCK_SIZE = 16  # tokens per KV block


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a Llama-family decoder, from config.json or GGUF metadata, and what it has beyond plain Llama.

    Optional parts are off by default. `qk_norm`: each query and key head is RMS-normed before it is rotated (Qwen3).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int  # not always hidden_size / num_heads
    max_model_len: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    qk_norm: bool = False
    layer_windows: tuple[int | None, ...] = ()  # [num_layers], or empty: every layer attends to everything

    def window_of(self, layer: int) -> int | None:
        """Most tokens that a row of this layer attends to, itself included; None: all before it."""
        return self.layer_windows[layer] if self.layer_windows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """Rows of one step. A row is one token of one sequence; rows of a sequence are adjacent and ascend in position.

    The runner writes each row's K and V to its sequence's blocks, then the row attends to positions 0..its own.
    Rejected drafts need no undo: their slots are overwritten by a later row with the same position.
    """

    token_ids: Tensor  # [rows] int64
    positions: Tensor  # [rows] int32
    row_sequences: Tensor  # [rows] int32, index into block_tables
    block_tables: Tensor  # [num_sequences, max_blocks] int32, unused entries 0
    logit_rows: Tensor  # [num_logit_rows] int64, ascending row indices whose logits are wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """`logits`: [num_logit_rows, vocab] float32. `hidden`: [rows, hidden_size] float32, the input of the final norm."""

    logits: Tensor
    hidden: Tensor


class Runner(Protocol):
    """Executes steps. Not thread-safe: only the engine's thread calls it."""

    config: ModelConfig
    is_row_invariant: bool  # a row's result doesn't depend on which other rows are in the step, bit for bit
    accelerator: str  # for the profile's key, e.g. "AMD EPYC (avx2, 2 threads)"
    dtype: str
    num_threads: int

    def allocate_kv(self, num_blocks: int) -> None:
        """Allocate the paged KV cache of `num_blocks` blocks of BLOCK_SIZE tokens. Called once before any step."""

    def kv_bytes_per_block(self) -> int:
        """Bytes that one block takes over all layers, K and V."""

    def forward(self, batch: StepBatch) -> ModelOutput:
        """One step. Raises nothing in normal operation; NaNs are passed through for the step to see."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embedding rows, [n] int64 to [n, hidden_size] float32, for drafters."""

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        """Rows of the LM head weight, [n] int64 to [n, hidden_size] float32, for drafters with a reduced vocabulary."""

    def final_norm_weight(self) -> Tensor:
        """[hidden_size] float32."""
