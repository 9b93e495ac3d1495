"""GGUF metadata to a ModelConfig, for the architectures that llama.cpp calls llama (Mistral too), qwen2 and qwen3.

Which tensors there are says which biases and norms the model has; what they don't show (scaling, windows) is in the
keys. A key that changes the arithmetic and isn't executed is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from bowsprit_engine.core.rope_scaling import FrequencyFactors, LinearScaling, RopeScaling, YarnScaling
from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.models.checkpoint import LM_HEAD, layer_name
from bowsprit_engine.models.config_hf import check_shape, yarn_length
from bowsprit_engine.models.gguf_metadata import Metadata
from bowsprit_engine.models.rope_hf import yarn_sharpening


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How llama.cpp's converter writes it. `is_permuted`: the rotary pairs of query and key rows are interleaved."""

    is_permuted: bool
    qk_norm: bool


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(is_permuted=True, qk_norm=False),
    "qwen2": Architecture(is_permuted=False, qk_norm=False),
    "qwen3": Architecture(is_permuted=False, qk_norm=True),
}
# Keys after the architecture's name, with the values under which they change nothing.
NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.temperature_scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scale_linear": (1.0,),
    "rope.dimension_sections": (),
    "rope.scaling.alpha": (0.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


def architecture_of(metadata: Metadata) -> str:
    """One of ARCHITECTURES. Raises ModelError naming the others."""
    name = metadata.need("general.architecture")
    if name not in ARCHITECTURES:
        raise metadata.refuse("general.architecture", name)
    return str(name)


def config_of(metadata: Metadata, *, names: Collection[str], rope_divisors: np.ndarray | None) -> ModelConfig:
    """`names`: the file's tensors under Hugging Face's names. `rope_divisors`: [head_dim / 2], of its rope_freqs.

    Raises ModelError naming the key that is missing or not supported, with its value.
    """
    architecture = architecture_of(metadata)
    for key, neutral in NEUTRAL_VALUES.items():
        value = metadata.get(f"{architecture}.{key}")
        if value is not None and value not in neutral:
            raise metadata.refuse(f"{architecture}.{key}", value)
    num_heads = metadata.integer(f"{architecture}.attention.head_count")
    hidden_size = metadata.integer(f"{architecture}.embedding_length")
    num_layers = metadata.integer(f"{architecture}.block_count")
    head_dim = metadata.integer(f"{architecture}.attention.key_length", default=hidden_size // max(num_heads, 1))
    for key in ("rope.dimension_count", "attention.value_length"):
        if metadata.integer(f"{architecture}.{key}", default=head_dim) != head_dim:
            raise metadata.refuse(f"{architecture}.{key}", metadata.get(f"{architecture}.{key}"))
    context = metadata.integer(f"{architecture}.context_length")
    if rope_divisors is not None and rope_divisors.shape != (head_dim // 2,):
        raise metadata.refuse("rope_freqs.weight", rope_divisors.shape)
    scaling = _rope_scaling(metadata, architecture, context=context, rope_divisors=rope_divisors)
    vocab_size = metadata.get(f"{architecture}.vocab_size")
    config = ModelConfig(
        vocab_size=int(vocab_size) if vocab_size is not None else len(metadata.need("tokenizer.ggml.tokens")),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer(f"{architecture}.feed_forward_length"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=metadata.integer(f"{architecture}.attention.head_count_kv", default=num_heads),
        head_dim=head_dim,
        max_model_len=max(context, yarn_length(scaling) or 0),
        rms_norm_eps=metadata.decimal(f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_theta=metadata.decimal(f"{architecture}.rope.freq_base", default=10000.0),
        rope_scaling=scaling,
        tie_word_embeddings=LM_HEAD not in names,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=_eos_token_ids(metadata),
        qkv_bias=layer_name(0, "self_attn.q_proj", "bias") in names,
        output_bias=layer_name(0, "self_attn.o_proj", "bias") in names,
        mlp_bias=layer_name(0, "mlp.up_proj", "bias") in names,
        qk_norm=ARCHITECTURES[architecture].qk_norm,
        layer_windows=_layer_windows(metadata, architecture, num_layers=num_layers),
    )
    check_shape(metadata.path, config)
    return config


def _eos_token_ids(metadata: Metadata) -> tuple[int, ...]:
    """All tokens that end a reply: of a document, a turn, a tool call's message."""
    found = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))


def _layer_windows(metadata: Metadata, architecture: str, *, num_layers: int) -> tuple[int | None, ...]:
    window = metadata.integer(f"{architecture}.attention.sliding_window", default=0)
    if not window:
        return ()
    key = f"{architecture}.attention.sliding_window_pattern"
    pattern = metadata.get(key)
    if pattern is None:
        return (window,) * num_layers
    if not isinstance(pattern, list) or len(pattern) != num_layers:  # a period: which layer begins it isn't said
        raise metadata.refuse(key, pattern)
    return tuple(window if is_windowed else None for is_windowed in pattern)


def _rope_scaling(
    metadata: Metadata, architecture: str, *, context: int, rope_divisors: np.ndarray | None
) -> RopeScaling | None:
    key = f"{architecture}.rope.scaling.type"
    method = metadata.get(key) or "none"
    if rope_divisors is not None:
        if method not in ("none", "llama3"):
            raise metadata.refuse(key, f"{method} beside a rope_freqs tensor")
        return FrequencyFactors(divisors=tuple(float(value) for value in rope_divisors))
    match method:
        case "none":
            return None
        case "linear":
            return LinearScaling(factor=metadata.decimal(f"{architecture}.rope.scaling.factor"))
        case "yarn":
            factor = metadata.decimal(f"{architecture}.rope.scaling.factor")
            return YarnScaling(
                factor=factor,
                original_max_position_embeddings=metadata.integer(
                    f"{architecture}.rope.scaling.original_context_length", default=context
                ),
                attention_factor=yarn_sharpening(factor),
                beta_fast=metadata.decimal(f"{architecture}.rope.scaling.yarn_beta_fast", default=32.0),
                beta_slow=metadata.decimal(f"{architecture}.rope.scaling.yarn_beta_slow", default=1.0),
            )
    raise metadata.refuse(key, method)
