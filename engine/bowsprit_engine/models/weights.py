"""A Hugging Face folder: config.json, safetensors (one file or shards under an index), tokenizer files.

Tensors are read lazily from the mapped files. Decides which file holds which tensor; knows no arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.config_hf import read_config
from bowsprit_engine.models.config_json import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class HfCheckpoint:
    """A `Checkpoint` over the safetensors of a folder. Raises ModelError when a file is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.config: ModelConfig = read_config(folder)
        self._file_of = _weight_map(folder)
        self._open = {path: _open(path) for path in sorted(set(self._file_of.values()))}

    def names(self) -> Collection[str]:
        return self._file_of.keys()

    def tensor(self, name: str) -> Tensor:
        path = self._file_of[name]
        try:
            tensor: Tensor = self._open[path].get_tensor(name)  # type: ignore[no-untyped-call]
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"{path}: tensor {name} is not readable: {error}", reason="CorruptModel") from error
        return tensor


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted. Raises ModelError when there is none."""
    return sorted(set(_weight_map(folder).values()))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's own fast tokenizer with its chat template. Raises ModelError.

    Built from tokenizer.json itself, never by tokenizer_class: some classes replace its pre-tokenizer by their own.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{path}: no such file", reason="ModelNotFound")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises a plain Exception for a file it can't parse
        raise ModelError(f"{path}: not a tokenizer: {error}", reason="CorruptModel") from error


def _weight_map(folder: Path) -> dict[str, Path]:
    index = folder / INDEX_FILE
    if index.is_file():
        entries = read_json(index).get("weight_map")
        if not isinstance(entries, dict) or not entries:
            raise ModelError(f"{index}: has no weight_map", reason="CorruptModel")
        return {name: folder / Path(str(file)).name for name, file in entries.items()}
    single = folder / SINGLE_FILE
    if not single.is_file():
        raise ModelError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}", reason="ModelNotFound")
    return dict.fromkeys(_open(single).keys(), single)  # type: ignore[no-untyped-call]


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise ModelError(f"{path}: no such file", reason="ModelNotFound")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors: {error}", reason="CorruptModel") from error
