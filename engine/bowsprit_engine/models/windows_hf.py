"""sliding_window, layer_types and their like of a config.json to a window per layer.

Decides which layers have one, as transformers' class of each family does; what that class would ignore or can't mean is
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.config_json import integer, refused

# "none" refuses sliding_window; "all" gives it to every layer; "switch" to those that use_sliding_window, layer_types
# and max_window_layers name.
WindowKind = Literal["none", "all", "switch"]
DEFAULT_WINDOW = 4096  # of transformers' classes of all three families when the key is absent
QWEN_FULL_LAYERS = 28  # of transformers' Qwen2Config and Qwen3Config when max_window_layers is absent


def layer_windows(path: Path, raw: Mapping[str, Any], kind: WindowKind, *, num_layers: int) -> tuple[int | None, ...]:
    """[num_layers], or empty when every layer attends to everything. Raises ModelError for what can't be executed."""
    types, window = raw.get("layer_types"), raw.get("sliding_window")
    if kind == "none":
        if window is not None:
            raise refused(path, "sliding_window", window)
        is_windowed = _windowed(path, types, num_layers=num_layers) if types else [False] * num_layers
        if any(is_windowed):
            raise refused(path, "layer_types", types)
        return ()
    if kind == "all":
        if types is not None:  # transformers' class ignores it; whoever wrote it meant another class
            raise refused(path, "layer_types", types)
        window = raw.get("sliding_window", DEFAULT_WINDOW)
        return () if window is None else (_window(path, window),) * num_layers
    if not raw.get("use_sliding_window"):
        if types and any(_windowed(path, types, num_layers=num_layers)):
            raise refused(path, "layer_types", types)
        return ()
    first = integer(path, raw, "max_window_layers", default=QWEN_FULL_LAYERS)
    by_index = [layer >= first for layer in range(num_layers)]
    is_windowed = _windowed(path, types, num_layers=num_layers) if types else by_index
    size = _window(path, raw.get("sliding_window", DEFAULT_WINDOW))
    return tuple(size if windowed else None for windowed in is_windowed) if any(is_windowed) else ()


def _windowed(path: Path, types: object, *, num_layers: int) -> list[bool]:
    """Which layers have a window. Raises ModelError for a kind of attention that isn't one of two, or a wrong count."""
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != num_layers or any(kind not in known for kind in types):
        raise refused(path, "layer_types", types)
    return [known[kind] for kind in types]


def _window(path: Path, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{path}: sliding_window is {value!r}, the least is 1", reason="UnsupportedModel")
    return value
