"""config.json to a ModelConfig: the Llama family as this engine runs it; everything else is refused by name.

Refusing is the point: a model with scaled rotary embeddings, biases, query norms or a sliding window would run and
give wrong text if its config were read loosely.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError

MODEL_TYPES = ("llama",)
# Keys that change the arithmetic, with the values under which they change nothing.
NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "use_qk_norm": (False, None),
    "qk_norm": (False, None),
    "no_rope_layers": (None, []),
    "num_local_experts": (None, 0),
    "attention_multiplier": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
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
    _refuse_unsupported(path, raw)
    num_heads = _integer(path, raw, "num_attention_heads")
    hidden_size = _integer(path, raw, "hidden_size")
    config = ModelConfig(
        vocab_size=_integer(path, raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(path, raw, "intermediate_size"),
        num_layers=_integer(path, raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=_integer(path, raw, "num_key_value_heads", default=num_heads),
        head_dim=_integer(path, raw, "head_dim", default=hidden_size // max(num_heads, 1)),
        max_model_len=_integer(path, raw, "max_position_embeddings", default=2048),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(raw),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=_eos_token_ids(folder, raw),
    )
    check_shape(path, config)
    return config


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


def _refuse_unsupported(path: Path, raw: Mapping[str, Any]) -> None:
    model_type = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{path}: model_type {model_type!r} is not supported, choose one of: {', '.join(MODEL_TYPES)}",
            reason="UnsupportedModel",
        )
    for key, neutral in NEUTRAL_VALUES.items():
        if key in raw and raw[key] not in neutral:
            raise ModelError(f"{path}: {key}={raw[key]!r} is not supported", reason="UnsupportedModel")
    for key in ("rope_scaling", "rope_parameters"):
        scaling = raw.get(key) or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise ModelError(f"{path}: {key} of type {kind!r} is not supported", reason="UnsupportedModel")


def _rope_theta(raw: Mapping[str, Any]) -> float:
    """transformers 5 moved it into rope_parameters; both places are in use."""
    parameters = raw.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", raw.get("rope_theta", 10000.0)))


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
