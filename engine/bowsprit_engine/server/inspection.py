"""What a model is and needs, printed for people who are about to serve it."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from bowsprit_engine.core.memory_budget import readable
from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models.memory import kv_bytes_per_block
from bowsprit_engine.server import assembly


def print_model(settings: ModelSettings) -> None:
    """Loads the model as `serve` does. Raises ModelError, and WorldError where it doesn't fit into memory."""
    opened = assembly.open_for(settings)
    itemsize = opened.options.dtype.itemsize
    budget = assembly.memory_budget(settings, opened.config, itemsize=itemsize)
    config = opened.config
    _print(
        {
            "model": settings.model,
            "digest": opened.digest,
            "weights": "RANDOM (--load-format dummy)" if settings.load_format == "dummy" else "the model's own",
            "computed by": f"{opened.options.backend} backend on {opened.options.device}, "
            f"{str(opened.options.dtype).removeprefix('torch.')}",
            **_shape(config),
            "KV cache per token": f"{kv_bytes_per_block(config, itemsize=itemsize) / BLOCK_SIZE / 1024:.1f} KiB",
            **{f"memory, {part.name}": f"{readable(part.num_bytes)} ({part.detail})" for part in budget.parts},
            "memory, all": f"{readable(budget.num_bytes)} of {readable(budget.limit.num_bytes)}, {budget.limit.source}",
        }
    )
    budget.check()
    runner = opened.load().runner
    _print(
        {
            "loaded on": runner.accelerator,
            "rows bitwise independent": "yes" if runner.is_row_invariant else "no",
        }
    )


def _shape(config: ModelConfig) -> dict[str, str]:
    """Fields by name; windows in words, since there is one for each layer."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    windows = fields.pop("layer_windows")
    has_window = [window for window in windows if window is not None]
    words = f"{has_window[0]} tokens in {len(has_window)} of {config.num_layers} layers" if has_window else "none"
    return {name.replace("_", " "): str(value) for name, value in fields.items()} | {"sliding window": words}


def _print(rows: dict[str, str]) -> None:
    """One line each, never cut or wrapped: digests are for copying."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for name, value in rows.items():
        console.print(f"{name:<26}{value}")
