"""config.json to a ModelConfig: the Llama family as this engine runs it; everything else is refused by name.

Refusing is the point: a model with partial rotary embeddings, experts or soft-capped logits would run and give wrong
text if its config were read loosely. What each family has by itself is FAMILIES' subject, rotary scaling rope_hf.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bowsprit_engine.core.rope_scaling import YarnScaling
from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.rope_hf import rope_scaling, rope_theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a model_type has by itself, and what transformers' class of it means by a key that is absent.

    attention_bias: "key" is the config's own attention_bias, on all four projections; "qkv" is always and on three.
    windows: "none" refuses sliding_window; "all" gives it to every layer; "switch" to those that use_sliding_window,
    layer_types and max_window_layers name. default_kv_heads, default_head_dim: None follows from the other sizes.
    """

    attention_bias: Literal["key", "qkv", "none"]
    mlp_bias: bool  # whether the key mlp_bias is obeyed
    qk_norm: bool
    windows: Literal["none", "all", "switch"]
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
MISTRAL_WINDOW = 4096  # of transformers' MistralConfig when the key is absent
QWEN_FULL_LAYERS = 28  # of transformers' Qwen2Config and Qwen3Config when max_window_layers is absent
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


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ModelError for a missing, unreadable or other kind of file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file", reason="ModelNotFound") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}", reason="CorruptModel") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a {type(value).__name__}, expected an object", reason="CorruptModel")
    return value


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder. Raises ModelError naming the key that isn't supported or is missing."""
    path = folder / "config.json"
    raw = read_json(path)
    family = _family(path, raw)
    _refuse_unsupported(path, raw)
    num_heads = _integer(path, raw, "num_attention_heads")
    hidden_size = _integer(path, raw, "hidden_size")
    num_layers = _integer(path, raw, "num_hidden_layers")
    max_positions = _integer(path, raw, "max_position_embeddings", default=family.default_max_positions)
    scaling = rope_scaling(path, raw, max_position_embeddings=max_positions)
    config = ModelConfig(
        vocab_size=_integer(path, raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(path, raw, "intermediate_size"),
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
        layer_windows=_layer_windows(path, raw, family, num_layers=num_layers),
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
            raise _refused(path, key, raw[key])
    family = FAMILIES[str(raw["model_type"])]
    if family.attention_bias != "key" and raw.get("attention_bias"):
        raise _refused(path, "attention_bias", raw["attention_bias"])
    if not family.mlp_bias and raw.get("mlp_bias"):
        raise _refused(path, "mlp_bias", raw["mlp_bias"])


def _refused(path: Path, key: str, value: object) -> ModelError:
    return ModelError(f"{path}: {key}={value!r} is not supported", reason="UnsupportedModel")


def _has_attention_bias(raw: Mapping[str, Any], family: Family) -> bool:
    return family.attention_bias == "key" and bool(raw.get("attention_bias"))


def _num_kv_heads(path: Path, raw: Mapping[str, Any], family: Family, *, num_heads: int) -> int:
    """Absent is the class's default, null is one per query head."""
    absent = family.default_kv_heads if "num_key_value_heads" not in raw else None
    return _integer(path, raw, "num_key_value_heads", default=absent or num_heads)


def _head_dim(path: Path, raw: Mapping[str, Any], family: Family, *, hidden_size: int, num_heads: int) -> int:
    if raw.get("head_dim") is None and family.default_head_dim is None and hidden_size % max(num_heads, 1):
        raise ModelError(
            f"{path}: hidden_size {hidden_size} is not a multiple of {num_heads} heads, and head_dim isn't given",
            reason="UnsupportedModel",
        )
    return _integer(path, raw, "head_dim", default=family.default_head_dim or hidden_size // max(num_heads, 1))


def _layer_windows(path: Path, raw: Mapping[str, Any], family: Family, *, num_layers: int) -> tuple[int | None, ...]:
    """[num_layers], or empty when every layer attends to everything."""
    types, window = raw.get("layer_types"), raw.get("sliding_window")
    if family.windows == "none":
        if window is not None:
            raise _refused(path, "sliding_window", window)
        is_windowed = _windowed(path, types, num_layers=num_layers) if types else [False] * num_layers
        if any(is_windowed):
            raise _refused(path, "layer_types", types)
        return ()
    if family.windows == "all":
        if types is not None:  # transformers' class ignores it; whoever wrote it meant another class
            raise _refused(path, "layer_types", types)
        window = raw.get("sliding_window", MISTRAL_WINDOW)
        return () if window is None else (_window(path, window),) * num_layers
    if not raw.get("use_sliding_window"):
        if types and any(_windowed(path, types, num_layers=num_layers)):
            raise _refused(path, "layer_types", types)
        return ()
    first = _integer(path, raw, "max_window_layers", default=QWEN_FULL_LAYERS)
    by_index = [layer >= first for layer in range(num_layers)]
    is_windowed = _windowed(path, types, num_layers=num_layers) if types else by_index
    size = _window(path, raw.get("sliding_window", MISTRAL_WINDOW))
    return tuple(size if windowed else None for windowed in is_windowed) if any(is_windowed) else ()


def _windowed(path: Path, types: object, *, num_layers: int) -> list[bool]:
    """Which layers have a window. Raises ModelError for a kind of attention that isn't one of two, or a wrong count."""
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != num_layers or any(kind not in known for kind in types):
        raise _refused(path, "layer_types", types)
    return [known[kind] for kind in types]


def _window(path: Path, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{path}: sliding_window is {value!r}, the least is 1", reason="UnsupportedModel")
    return value


def _eos_token_ids(folder: Path, raw: Mapping[str, Any]) -> tuple[int, ...]:
    """All tokens that end a reply: generation_config.json adds those of the chat format to config.json's."""
    generation = folder / "generation_config.json"
    sources = [raw, read_json(generation)] if generation.exists() else [raw]
    found: list[int] = []
    for source in sources:
        value = source.get("eos_token_id")
        found.extend(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(dict.fromkeys(found))


def _integer(path: Path, raw: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelError(f"{path}: {key} is {value!r}, expected an integer", reason="UnsupportedModel")
    return value
