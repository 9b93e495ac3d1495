"""rope_parameters (transformers 5) or rope_scaling (before) of a config.json to a base and a RopeScaling.

Decides which methods run; a method that doesn't, and a key that its method doesn't have, is refused by name, since
reading past it would rotate by other angles. Knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowsprit_engine.core.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from bowsprit_engine.errors import ModelError

DEFAULT_THETA = 10000.0
COMMON_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
OWN_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            "finetuned",  # says how the model was made, changes nothing
        }
    ),
}
# Their frequencies depend on the length of a sequence, so keys that are cached already would have to be turned again.
DEPENDS_ON_LENGTH = ("dynamic", "longrope", "su")


def rope_theta(raw: Mapping[str, Any]) -> float:
    """The base of the frequencies, from either place."""
    value = _parameters(raw)[1].get("rope_theta")
    return float(value if value is not None else raw.get("rope_theta") or DEFAULT_THETA)


def rope_scaling(path: Path, raw: Mapping[str, Any], *, max_position_embeddings: int) -> RopeScaling | None:
    """Raises ModelError naming the method or the key of `path` that isn't supported, with its value."""
    place, parameters = _parameters(raw)
    method = parameters.get("rope_type") or parameters.get("type") or "default"
    _refuse_unknown(path, place, method, parameters)
    original = raw.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    length = original if isinstance(original, int) else max_position_embeddings

    def number(key: str, default: float | None = None) -> float:
        value = parameters.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ModelError(
                f"{path}: {place} of type {method!r} has {key}={value!r}, expected a number above 0",
                reason="UnsupportedModel",
            )
        return float(value)

    match method:
        case "linear":
            return LinearScaling(factor=number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=number("factor"),
                low_freq_factor=number("low_freq_factor"),
                high_freq_factor=number("high_freq_factor"),
                original_max_position_embeddings=length,
            )
        case "yarn":
            factor = number("factor", max_position_embeddings / length)
            return YarnScaling(
                factor=factor,
                original_max_position_embeddings=length,
                attention_factor=number("attention_factor", _yarn_attention_factor(factor, parameters)),
                beta_fast=number("beta_fast", 32.0),
                beta_slow=number("beta_slow", 1.0),
                truncate=bool(parameters.get("truncate", True)),
            )
    return None


def yarn_sharpening(factor: float, scale: float = 1.0) -> float:
    """YaRN's attention factor for a stretch by `factor` (equation 22 of the paper, as a multiplier of cos and sin)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _yarn_attention_factor(factor: float, parameters: Mapping[str, Any]) -> float:
    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if over and under:
        return yarn_sharpening(factor, float(over)) / yarn_sharpening(factor, float(under))
    return yarn_sharpening(factor)


def _parameters(raw: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The key that holds them and its value; transformers lets rope_scaling win."""
    for place in ("rope_scaling", "rope_parameters"):
        value = raw.get(place)
        if isinstance(value, dict) and value:
            return place, value
    return "rope_parameters", {}


def _refuse_unknown(path: Path, place: str, method: object, parameters: Mapping[str, Any]) -> None:
    if method not in OWN_KEYS:
        why = " (its angles depend on the sequence's length)" if method in DEPENDS_ON_LENGTH else ""
        raise ModelError(
            f"{path}: {place} of type {method!r} is not supported{why}, choose one of: {', '.join(OWN_KEYS)}",
            reason="UnsupportedModel",
        )
    unknown = sorted(key for key in parameters if key not in COMMON_KEYS | OWN_KEYS[str(method)])
    for key in unknown:
        raise ModelError(
            f"{path}: {place} of type {method!r} has {key}={parameters[key]!r}, which is not supported",
            reason="UnsupportedModel",
        )
    share = parameters.get("partial_rotary_factor")
    if share not in (None, 1, 1.0):
        raise ModelError(
            f"{path}: {place} has partial_rotary_factor={share!r}, only 1 is supported", reason="UnsupportedModel"
        )
