"""config.json to a ModelConfig: the Llama family as this engine runs it; everything else is refused by name.

Refusing is the point: a model with partial rotary embeddings, experts or soft-capped logits would run and give wrong
text if its config were read loosely. What each family has by itself is FAMILIES' subject, rotary scaling rope_hf.py's,
sliding windows windows_hf.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bowsprit_engine.core.rope_scaling import YarnScaling
from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.config_json import integer, read_json, refused
from bowsprit_engine.models.rope_hf import rope_scaling, rope_theta
from bowsprit_engine.models.windows_hf import WindowKind, layer_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a model_type has by itself, and what transformers' class of it means by a key that is absent.

    attention_bias: "key" is the config's own attention_bias, on all four projections; "qkv" is always and on three.
    windows: which layers have one (windows_hf.py). default_kv_heads, default_head_dim: None follows from the others.
    """

    attention_bias: Literal["key", "qkv", "none"]
    mlp_bias: bool  # whether the key mlp_bias is obeyed
    qk_norm: bool
    windows: WindowKind
    default_max_positions: int
    default_kv_heads: int | None = None
    default_head_dim: int | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family(attention_bias="key", mlp_bias=True, qk_norm=False, windows="none", default_max_positions=2048),
    "mistral": Family(
        attention_bias="none",
        mlp_bias=False,
        qk_norm=False,
        windows="all",
        default_max_positions=131072,
        default_kv_heads=8,
    ),
    "qwen2": Family(
        attention_bias="qkv",
        mlp_bias=False,
        qk_norm=False,
        windows="switch",
        default_max_positions=32768,
        default_kv_heads=32,
    ),
    "qwen3": Family(
        attention_bias="key",
        mlp_bias=False,
        qk_norm=True,
        windows="switch",
        default_max_positions=32768,
        default_kv_heads=32,
        default_head_dim=128,
    ),
}
# Keys that change the arithmetic, with the values under which they change nothing.
NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "use_qk_norm": (False, None),
    "qk_norm": (False, None),
    "no_rope_layers": (None, []),
    "num_local_experts": (None, 0),
    "num_experts": (None, 0),
    "attention_multiplier": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "attention_sink": (None, False),
    "attention_chunk_size": (None,),
    "use_mrope": (None, False),
}


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder. Raises ModelError naming the key that isn't supported or is missing."""
    path = folder / "config.json"
    raw = read_json(path)
    family = _family(path, raw)
    _refuse_unsupported(path, raw)
    num_heads = integer(path, raw, "num_attention_heads")
    hidden_size = integer(path, raw, "hidden_size")
    num_layers = integer(path, raw, "num_hidden_layers")
    max_positions = integer(path, raw, "max_position_embeddings", default=family.default_max_positions)
    scaling = rope_scaling(path, raw, max_position_embeddings=max_positions)
    config = ModelConfig(
        vocab_size=integer(path, raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=integer(path, raw, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(path, raw, family, num_heads=num_heads),
        head_dim=_head_dim(path, raw, family, hidden_size=hidden_size, num_heads=num_heads),
        max_model_len=max(max_positions, stretched) if (stretched := yarn_length(scaling)) else max_positions,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=rope_theta(raw),
        rope_scaling=scaling,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=_eos_token_ids(folder, raw),
        qkv_bias=family.attention_bias == "qkv" or _has_attention_bias(raw, family),
        output_bias=_has_attention_bias(raw, family),
        mlp_bias=family.mlp_bias and bool(raw.get("mlp_bias")),
        qk_norm=family.qk_norm,
        layer_windows=layer_windows(path, raw, family.windows, num_layers=num_layers),
    )
    check_shape(path, config)
    return config


def yarn_length(scaling: object) -> int | None:
    """Tokens that YaRN stretches to: many configs keep the original length in max_position_embeddings."""
    if not isinstance(scaling, YarnScaling):
        return None
    return int(scaling.original_max_position_embeddings * scaling.factor)


def check_shape(path: Path, config: ModelConfig) -> None:
    """Raises ModelError for sizes that no decoder can have."""
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
        if getattr(config, name) < 1:
            raise ModelError(f"{path}: {name} is {getattr(config, name)}, the least is 1", reason="UnsupportedModel")
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"{path}: {config.num_heads} query heads are not a multiple of {config.num_kv_heads} key-value heads",
            reason="UnsupportedModel",
        )
    if config.head_dim < 2 or config.head_dim % 2:
        raise ModelError(f"{path}: head_dim {config.head_dim} is not even", reason="UnsupportedModel")


def _family(path: Path, raw: Mapping[str, Any]) -> Family:
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise ModelError(
            f"{path}: model_type {model_type!r} is not supported, choose one of: {', '.join(FAMILIES)}",
            reason="UnsupportedModel",
        )
    return FAMILIES[str(model_type)]


def _refuse_unsupported(path: Path, raw: Mapping[str, Any]) -> None:
    for key, neutral in NEUTRAL_VALUES.items():
        if key in raw and raw[key] not in neutral:
            raise refused(path, key, raw[key])
    family = FAMILIES[str(raw["model_type"])]
    if family.attention_bias != "key" and raw.get("attention_bias"):
        raise refused(path, "attention_bias", raw["attention_bias"])
    if not family.mlp_bias and raw.get("mlp_bias"):
        raise refused(path, "mlp_bias", raw["mlp_bias"])


def _has_attention_bias(raw: Mapping[str, Any], family: Family) -> bool:
    return family.attention_bias == "key" and bool(raw.get("attention_bias"))


def _num_kv_heads(path: Path, raw: Mapping[str, Any], family: Family, *, num_heads: int) -> int:
    """Absent is the class's default, null is one per query head."""
    absent = family.default_kv_heads if "num_key_value_heads" not in raw else None
    return integer(path, raw, "num_key_value_heads", default=absent or num_heads)


def _head_dim(path: Path, raw: Mapping[str, Any], family: Family, *, hidden_size: int, num_heads: int) -> int:
    if raw.get("head_dim") is None and family.default_head_dim is None and hidden_size % max(num_heads, 1):
        raise ModelError(
            f"{path}: hidden_size {hidden_size} is not a multiple of {num_heads} heads, and head_dim isn't given",
            reason="UnsupportedModel",
        )
    return integer(path, raw, "head_dim", default=family.default_head_dim or hidden_size // max(num_heads, 1))


def _eos_token_ids(folder: Path, raw: Mapping[str, Any]) -> tuple[int, ...]:
    """All tokens that end a reply: generation_config.json adds those of the chat format to config.json's."""
    generation = folder / "generation_config.json"
    sources = [raw, read_json(generation)] if generation.exists() else [raw]
    found: list[int] = []
    for source in sources:
        value = source.get("eos_token_id")
        found.extend(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(dict.fromkeys(found))
