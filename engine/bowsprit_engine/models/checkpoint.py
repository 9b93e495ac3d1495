"""What a model on disk is to whoever runs it: a shape and tensors by Hugging Face's names, whatever the file format.

Decides the list of a Llama decoder's tensors and their shapes, and refuses a checkpoint that lacks one, has another
shape, or holds a tensor that its config doesn't announce (a bias, a query norm), since ignoring it would be silently
wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
IGNORED_ENDINGS = ("rotary_emb.inv_freq",)  # a buffer that old exports wrote; it follows from rope_theta


class Checkpoint(Protocol):
    """Tensors by name. A checkpoint may read lazily: `tensor` raises ModelError for what can't be read."""

    path: Path
    config: ModelConfig

    def names(self) -> Collection[str]:
        """Names of all tensors, as Hugging Face writes them."""

    def tensor(self, name: str) -> Tensor:
        """One tensor, in a floating-point dtype of the checkpoint's choice."""


def layer_name(layer: int, part: str, kind: Literal["weight", "bias"] = "weight") -> str:
    """E.g. (3, "mlp.up_proj") is "model.layers.3.mlp.up_proj.weight"."""
    return f"model.layers.{layer}.{part}.{kind}"


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a decoder of this shape. A tied LM head is the embedding and has no tensor of its own."""
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        FINAL_NORM: (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, config.hidden_size)
    weights, biases = _layer_weights(config), _layer_biases(config)
    for layer in range(config.num_layers):
        shapes |= {layer_name(layer, part): shape for part, shape in weights.items()}
        shapes |= {layer_name(layer, part, "bias"): shape for part, shape in biases.items()}
    return shapes


def _layer_weights(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    weights: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    if config.qk_norm:
        weights |= {"self_attn.q_norm": (config.head_dim,), "self_attn.k_norm": (config.head_dim,)}
    return weights


def _layer_biases(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    parts: list[str] = []
    if config.qkv_bias:
        parts += ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    if config.output_bias:
        parts += ["self_attn.o_proj"]
    if config.mlp_bias:
        parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    weights = _layer_weights(config)
    return {part: weights[part][:1] for part in parts}


def check_names(checkpoint: Checkpoint) -> None:
    """Raises ModelError when a tensor is missing or is not a Llama decoder's."""
    expected = tensor_shapes(checkpoint.config)
    present = set(checkpoint.names())
    missing = sorted(expected.keys() - present)
    if missing:
        raise ModelError(
            f"{checkpoint.path}: {len(missing)} tensors are missing, the first is {missing[0]}", reason="MissingTensor"
        )
    tied = {LM_HEAD} if checkpoint.config.tie_word_embeddings else set()
    unknown = sorted(n for n in present - expected.keys() - tied if not n.endswith(IGNORED_ENDINGS))
    if unknown:
        raise ModelError(
            f"{checkpoint.path}: tensor {unknown[0]} is not part of a Llama decoder as this engine runs it",
            reason="UnsupportedModel",
        )


def take(checkpoint: Checkpoint, name: str) -> Tensor:
    """A tensor whose shape and dtype were checked. Raises ModelError."""
    tensor = checkpoint.tensor(name)
    expected = tensor_shapes(checkpoint.config)[name]
    if tuple(tensor.shape) != expected:
        raise ModelError(
            f"{checkpoint.path}: tensor {name} has shape {tuple(tensor.shape)}, the config says {expected}",
            reason="WrongShape",
        )
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
        raise ModelError(
            f"{checkpoint.path}: tensor {name} has dtype {tensor.dtype}, expected float32, bfloat16 or float16",
            reason="UnsupportedDtype",
        )
    return tensor
