"""What a model is and needs, printed for people who are about to serve it."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.server import assembly

GIB = 2**30


def print_model(settings: ModelSettings) -> None:
    """Loads the model as `serve` does. Raises ModelError."""
    model = assembly.load(settings)
    config, runner = model.config, model.runner
    per_token = runner.kv_bytes_per_block() / BLOCK_SIZE
    full = settings.max_batch_size * config.max_model_len
    weights = parameters(config)
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "model": settings.model,
        "digest": model.digest,
        "computed by": f"{runner.accelerator}, {runner.dtype}",
        "rows bitwise independent": "yes" if runner.is_row_invariant else "no",
        "parameters": f"{weights / 1e6:.1f} M, {weights * bytes_per_weight(runner.dtype) / GIB:.2f} GiB",
        "KV cache per token": f"{per_token / 1024:.1f} KiB",
        "KV cache of a full batch": f"{full * per_token / GIB:.2f} GiB ({settings.max_batch_size} sequences)",
        **{name.replace("_", " "): str(value) for name, value in dataclasses.asdict(config).items()},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def parameters(config: ModelConfig) -> int:
    """Weights of a Llama-family decoder."""
    attention = config.hidden_size * config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    layer = attention + 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return config.num_layers * layer + embeddings + config.hidden_size


def bytes_per_weight(dtype: str) -> int:
    return 4 if "32" in dtype else 2
