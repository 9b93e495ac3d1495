"""A GGUF file as a checkpoint: quantised blocks to tensors under Hugging Face's names.

llama.cpp interleaves the rotary pairs of a Llama's query and key rows; they are put back here (`unpermuted`). What the
metadata says of the model is in gguf_config.py, the tokenizer in gguf_tokenizer.py. Dequantising is the `gguf`
package's work.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, layer_name
from bowsprit_engine.models.gguf_config import ARCHITECTURES, architecture_of, config_of
from bowsprit_engine.models.gguf_metadata import Metadata

MAGIC = b"GGUF"
ROPE_DIVISORS = "rope_freqs.weight"  # one per frequency: Llama 3.1's scaling, as llama.cpp stores it
WHOLE_MODEL_NAMES = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": LM_HEAD}
LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufCheckpoint:
    """A `Checkpoint` over one GGUF file. Raises ModelError for a file that is truncated or not supported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _read(path)
        self.metadata = Metadata(path, self._reader)
        self._tensors = {_hugging_face_name(tensor.name): tensor for tensor in self._reader.tensors}
        self._is_permuted = ARCHITECTURES[architecture_of(self.metadata)].is_permuted
        divisors = self._tensors.pop(ROPE_DIVISORS, None)
        self.config: ModelConfig = config_of(
            self.metadata,
            names=self._tensors.keys(),
            rope_divisors=None if divisors is None else np.asarray(divisors.data, dtype=np.float32),
        )

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def tensor(self, name: str) -> Tensor:
        """float32, dequantised; rows of query and key projections in Hugging Face's order."""
        stored = self._tensors[name]
        try:
            values = np.asarray(dequantize(stored.data, stored.tensor_type), dtype=np.float32)
        except (NotImplementedError, ValueError) as error:
            raise ModelError(
                f"{self.path}: tensor {stored.name} of type {stored.tensor_type.name} can't be read: {error}",
                reason="UnsupportedDtype",
            ) from error
        writable = np.require(values, requirements=["C", "W"])  # float32 ones are views of the read-only file
        tensor = torch.from_numpy(writable).reshape([int(n) for n in reversed(stored.shape)])
        part = name.split(".")[-2]
        if self._is_permuted and part in ("q_proj", "k_proj"):
            return unpermuted(tensor, self.config.num_heads if part == "q_proj" else self.config.num_kv_heads)
        return tensor


def unpermuted(
    rows: Tensor,  # [heads * head_dim, ...], each head's rows as (head_dim / 2, 2): a weight or a bias
    num_heads: int,
) -> Tensor:  # the same shape, each head's rows as (2, head_dim / 2)
    """Undo llama.cpp's row order (its convert_hf_to_gguf.py, LlamaModel.permute)."""
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(rows.shape).contiguous()


class _Reader(GGUFReader):  # type: ignore[misc]  # the package has no types
    """The package's reader over a plain array: slicing a memmap 800,000 times takes seconds."""

    @property
    def data(self) -> Any:
        return self._bytes

    @data.setter
    def data(self, mapped: Any) -> None:
        self._bytes = mapped.view(np.ndarray)


def _read(path: Path) -> GGUFReader:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}", reason="ModelNotFound") from error
    if magic != MAGIC:
        raise ModelError(f"{path}: not a GGUF file, it begins with {magic!r}", reason="CorruptModel")
    try:
        return _Reader(path)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, UnicodeDecodeError, OSError) as error:
        size = path.stat().st_size
        raise ModelError(
            f"{path}: GGUF of {size} bytes is truncated or damaged: {error}", reason="CorruptModel"
        ) from error


def _hugging_face_name(name: str) -> str:
    """Unknown names stay as they are, to be refused by `check_names`."""
    if name in WHOLE_MODEL_NAMES:
        return WHOLE_MODEL_NAMES[name]
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    part, _, kind = part.rpartition(".")
    if prefix == "blk" and layer.isdecimal() and part in LAYER_PARTS and kind in ("weight", "bias"):
        return layer_name(int(layer), LAYER_PARTS[part], "bias" if kind == "bias" else "weight")
    return name
