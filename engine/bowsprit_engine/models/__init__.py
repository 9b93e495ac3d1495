"""Loading a model: a path to a runner, its config, its tokenizer and its digest.

Decides by what lies at the path (a .gguf file, a folder) how it is read, and by device and dtype which runner executes
it. A runner is one entry of RUNNERS; its arithmetic is its own file's subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bowsprit_engine.core.runner import ModelConfig, Runner
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import Checkpoint, check_names
from bowsprit_engine.models.digest import model_digest, tokenizer_files_digest
from bowsprit_engine.models.random_weights import RandomCheckpoint

DType = Literal["auto", "bfloat16", "float16", "float32"]
Backend = Literal["auto", "native", "torch"]
LoadFormat = Literal["auto", "dummy"]

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to serve. `tokenizer` is a transformers fast tokenizer with its chat template."""

    runner: Runner
    config: ModelConfig
    tokenizer: Any
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What a runner is built with; "auto" is resolved."""

    dtype: torch.dtype
    device: torch.device
    num_threads: int | None  # None: as many as the CPUs that this process may use


def _native(checkpoint: Checkpoint, options: RunnerOptions) -> Runner:
    from bowsprit_engine.models.native_runner import NativeRunner  # needs the compiled library

    return NativeRunner(checkpoint, num_threads=options.num_threads)


def _torch(checkpoint: Checkpoint, options: RunnerOptions) -> Runner:
    from bowsprit_engine.models.torch_runner import TorchRunner

    if options.num_threads is not None and options.device.type == "cpu":
        torch.set_num_threads(options.num_threads)
    return TorchRunner(checkpoint, dtype=options.dtype, device=options.device)


RUNNERS: Mapping[str, Callable[[Checkpoint, RunnerOptions], Runner]] = {"native": _native, "torch": _torch}


def load_model(
    path: Path,
    *,
    dtype: DType = "auto",
    max_model_len: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    load_format: LoadFormat = "auto",
    num_threads: int | None = None,
) -> LoadedModel:
    """Load a .gguf file or a Hugging Face folder. Raises ModelError naming the path and the cause.

    dtype "auto" is bfloat16, whatever the checkpoint holds: weights are stored so; the native runner computes in
    float32. backend "auto" is native for bfloat16 on the CPU, else torch. load_format "dummy" reads the config and
    the tokenizer and draws the weights at random.
    """
    options = RunnerOptions(
        dtype=_resolve_dtype(path, dtype), device=_resolve_device(path, device), num_threads=num_threads
    )
    chosen = _resolve_backend(path, backend, options)
    source = _read(path, load_format)
    checkpoint = source.checkpoint
    checkpoint.config = _with_max_model_len(path, checkpoint.config, max_model_len)
    check_names(checkpoint)
    runner = RUNNERS[chosen](checkpoint, options)
    return LoadedModel(runner=runner, config=checkpoint.config, tokenizer=source.tokenizer, digest=source.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    checkpoint: Checkpoint
    tokenizer: Any
    digest: str


def _read(path: Path, load_format: LoadFormat) -> _Source:
    if load_format not in ("auto", "dummy"):
        raise ModelError(
            f"{path}: load_format {load_format!r} is not one of: auto, dummy", reason="UnsupportedLoadFormat"
        )
    is_dummy = load_format == "dummy"
    if path.is_dir():
        return _read_folder(path, is_dummy=is_dummy)
    if path.is_file() and path.suffix == ".gguf":
        return _read_gguf(path, is_dummy=is_dummy)
    if path.exists():
        raise ModelError(f"{path}: neither a .gguf file nor a folder with config.json", reason="UnsupportedModel")
    raise ModelError(f"{path}: no such file or folder", reason="ModelNotFound")


def _read_folder(path: Path, *, is_dummy: bool) -> _Source:
    from bowsprit_engine.models import weights
    from bowsprit_engine.models.config_hf import read_config, read_json

    checkpoint: Checkpoint = RandomCheckpoint(path, read_config(path)) if is_dummy else weights.HfCheckpoint(path)
    tokenizer = weights.load_tokenizer(path)
    digest = model_digest(
        config=read_json(path / "config.json"),
        tokenizer=tokenizer_files_digest(path),
        weight_files=[] if is_dummy else weights.weight_files(path),
    )
    return _Source(checkpoint=checkpoint, tokenizer=tokenizer, digest=digest)


def _read_gguf(path: Path, *, is_dummy: bool) -> _Source:
    from bowsprit_engine.models.gguf import GgufCheckpoint
    from bowsprit_engine.models.gguf_tokenizer import tokenizer_from

    stored = GgufCheckpoint(path)
    tokenizer = tokenizer_from(path, stored.metadata)
    metadata = {key: stored.metadata.get(key) for key in stored.metadata if not key.startswith("GGUF.")}
    digest = model_digest(
        config={key: value for key, value in metadata.items() if not key.startswith("tokenizer.")},
        tokenizer={key: value for key, value in metadata.items() if key.startswith("tokenizer.")},
        weight_files=[] if is_dummy else [path],
    )
    checkpoint: Checkpoint = RandomCheckpoint(path, stored.config) if is_dummy else stored
    return _Source(checkpoint=checkpoint, tokenizer=tokenizer, digest=digest)


def _resolve_dtype(path: Path, dtype: str) -> torch.dtype:
    name = "bfloat16" if dtype == "auto" else dtype
    if name not in DTYPES:
        raise ModelError(f"{path}: dtype {dtype!r} is not one of: auto, {', '.join(DTYPES)}", reason="UnsupportedDtype")
    return DTYPES[name]


def _resolve_device(path: Path, device: str) -> torch.device:
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"{path}: device {device!r} is unknown: {error}", reason="UnsupportedDevice") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{path}: device {device!r} was asked for, no CUDA device is there", reason="DeviceMissing")
    return resolved


def _resolve_backend(path: Path, backend: str, options: RunnerOptions) -> str:
    can_native = options.device.type == "cpu" and options.dtype == torch.bfloat16
    name = ("native" if can_native else "torch") if backend == "auto" else backend
    if name not in RUNNERS:
        raise ModelError(
            f"{path}: backend {backend!r} is not one of: auto, {', '.join(RUNNERS)}", reason="UnsupportedBackend"
        )
    if name == "native" and not can_native:
        raise ModelError(
            f"{path}: the native backend runs bfloat16 weights on the CPU, not {options.dtype} on {options.device}",
            reason="UnsupportedDtype",
        )
    return name


def _with_max_model_len(path: Path, config: ModelConfig, max_model_len: int | None) -> ModelConfig:
    if max_model_len is None:
        return config
    if not 1 <= max_model_len <= config.max_model_len:
        raise ModelError(
            f"{path}: max_model_len {max_model_len} is not within 1 and the model's own {config.max_model_len}",
            reason="MaxModelLenOutOfRange",
        )
    return dataclasses.replace(config, max_model_len=max_model_len)
