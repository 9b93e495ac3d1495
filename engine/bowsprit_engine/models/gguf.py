"""A GGUF file as a checkpoint: metadata to a ModelConfig, quantised blocks to tensors under Hugging Face's names.

llama.cpp interleaves the rotary pairs of the query and key rows; they are put back here (`unpermuted`). What this
engine doesn't run (another architecture, scaled rotary embeddings) is refused by its key. The tokenizer is in
gguf_tokenizer.py. Dequantising is the `gguf` package's work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, layer_name
from bowsprit_engine.models.config_hf import check_shape

MAGIC = b"GGUF"
ARCHITECTURE = "llama"
WHOLE_MODEL_NAMES = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": LM_HEAD}
LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
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
        self.config: ModelConfig = _config(path, self.metadata, is_tied=LM_HEAD not in self._tensors)

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
        if name.endswith("q_proj.weight"):
            return unpermuted(tensor, self.config.num_heads)
        if name.endswith("k_proj.weight"):
            return unpermuted(tensor, self.config.num_kv_heads)
        return tensor


class Metadata:
    """The key-value section, with errors that name the key."""

    def __init__(self, path: Path, reader: GGUFReader) -> None:
        self._path = path
        self._fields = reader.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def get(self, key: str) -> Any | None:
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self._path}: metadata key {key} is missing", reason="CorruptModel")
        return value

    def refuse(self, key: str, value: object) -> ModelError:
        return ModelError(f"{self._path}: {key}={value!r} is not supported", reason="UnsupportedModel")


def unpermuted(
    weight: Tensor,  # [heads * head_dim, in], each head's rows as (head_dim / 2, 2)
    num_heads: int,
) -> Tensor:  # [heads * head_dim, in], each head's rows as (2, head_dim / 2)
    """Undo llama.cpp's row order (its convert_hf_to_gguf.py, LlamaModel.permute)."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns).contiguous()


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
    part = part.removesuffix(".weight")
    if prefix == "blk" and layer.isdecimal() and part in LAYER_PARTS:
        return layer_name(int(layer), LAYER_PARTS[part])
    return name


def _decimal(value: float) -> float:
    """What was written before it became float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _config(path: Path, metadata: Metadata, *, is_tied: bool) -> ModelConfig:
    architecture = metadata.need("general.architecture")
    if architecture != ARCHITECTURE:
        raise metadata.refuse("general.architecture", architecture)
    scaling = metadata.get("llama.rope.scaling.type")
    if scaling not in (None, "none"):
        raise metadata.refuse("llama.rope.scaling.type", scaling)
    if metadata.get("llama.expert_count"):
        raise metadata.refuse("llama.expert_count", metadata.get("llama.expert_count"))
    num_heads = int(metadata.need("llama.attention.head_count"))
    hidden_size = int(metadata.need("llama.embedding_length"))
    head_dim = int(metadata.get("llama.attention.key_length") or hidden_size // max(num_heads, 1))
    rotary = metadata.get("llama.rope.dimension_count")
    if rotary is not None and int(rotary) != head_dim:
        raise metadata.refuse("llama.rope.dimension_count", rotary)
    eos = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    vocab_size = metadata.get("llama.vocab_size")
    config = ModelConfig(
        vocab_size=int(vocab_size) if vocab_size is not None else len(metadata.need("tokenizer.ggml.tokens")),
        hidden_size=hidden_size,
        intermediate_size=int(metadata.need("llama.feed_forward_length")),
        num_layers=int(metadata.need("llama.block_count")),
        num_heads=num_heads,
        num_kv_heads=int(metadata.get("llama.attention.head_count_kv") or num_heads),
        head_dim=head_dim,
        max_model_len=int(metadata.need("llama.context_length")),
        rms_norm_eps=_decimal(metadata.need("llama.attention.layer_norm_rms_epsilon")),
        rope_theta=_decimal(metadata.get("llama.rope.freq_base") or 10000.0),
        tie_word_embeddings=is_tied,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=tuple(dict.fromkeys(int(token) for token in eos if token is not None)),
    )
    check_shape(path, config)
    return config
