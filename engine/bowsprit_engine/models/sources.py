"""What lies at a model's path: its checkpoint, tokenizer and digest, with the weights still on disk.

Decides by the kind of path (a .gguf file, a Hugging Face folder) how it is read, and what stands in for weights that
are not wanted. Refuses to know who executes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import Checkpoint
from bowsprit_engine.models.digest import model_digest, tokenizer_files_digest
from bowsprit_engine.models.random_weights import RandomCheckpoint

LoadFormat = Literal["auto", "dummy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`tokenizer` is a transformers fast tokenizer; `digest` identifies weights, config and tokenizer together."""

    checkpoint: Checkpoint
    tokenizer: Any
    digest: str


def read_source(path: Path, load_format: LoadFormat, device: torch.device) -> Source:
    """`device`: where random weights are drawn. Raises ModelError naming the path and the cause."""
    if load_format not in ("auto", "dummy"):
        raise ModelError(
            f"{path}: load_format {load_format!r} is not one of: auto, dummy", reason="UnsupportedLoadFormat"
        )
    if path.is_dir():
        return _dummy_folder(path, device) if load_format == "dummy" else _folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path, dummy_on=device if load_format == "dummy" else None)
    if path.exists():
        raise ModelError(f"{path}: neither a .gguf file nor a folder with config.json", reason="UnsupportedModel")
    raise ModelError(f"{path}: no such file or folder", reason="ModelNotFound")


def _folder(path: Path) -> Source:
    from bowsprit_engine.models import weights
    from bowsprit_engine.models.config_json import read_json

    checkpoint = weights.HfCheckpoint(path)
    digest = model_digest(
        config=read_json(path / "config.json"),
        tokenizer=tokenizer_files_digest(path),
        weight_files=weights.weight_files(path),
    )
    return Source(checkpoint=checkpoint, tokenizer=weights.load_tokenizer(path), digest=digest)


def _dummy_folder(path: Path, device: torch.device) -> Source:
    """config.json is all that it needs."""
    from bowsprit_engine.models import weights
    from bowsprit_engine.models.byte_tokenizer import byte_tokenizer
    from bowsprit_engine.models.config_hf import read_config
    from bowsprit_engine.models.config_json import read_json

    config = read_config(path)
    has_tokenizer = (path / "tokenizer.json").is_file()
    return Source(
        checkpoint=RandomCheckpoint(path, config, device=device),
        tokenizer=weights.load_tokenizer(path) if has_tokenizer else byte_tokenizer(path, config),
        digest=model_digest(
            config=read_json(path / "config.json"), tokenizer=tokenizer_files_digest(path), weight_files=[]
        ),
    )


def _gguf(path: Path, *, dummy_on: torch.device | None) -> Source:
    """`dummy_on`: draw random weights there instead of reading the file's."""
    from bowsprit_engine.models.gguf import GgufCheckpoint
    from bowsprit_engine.models.gguf_tokenizer import tokenizer_from

    stored = GgufCheckpoint(path)
    tokenizer = tokenizer_from(path, stored.metadata)
    metadata = {key: stored.metadata.get(key) for key in stored.metadata if not key.startswith("GGUF.")}
    digest = model_digest(
        config={key: value for key, value in metadata.items() if not key.startswith("tokenizer.")},
        tokenizer={key: value for key, value in metadata.items() if key.startswith("tokenizer.")},
        weight_files=[] if dummy_on else [path],
    )
    checkpoint: Checkpoint = RandomCheckpoint(path, stored.config, device=dummy_on) if dummy_on else stored
    return Source(checkpoint=checkpoint, tokenizer=tokenizer, digest=digest)
