"""Opening and loading a model: a path to a config, a tokenizer and a digest, and then to a runner with its weights.

Decides by what lies at the path (a .gguf file, a folder) how it is read, and by device and dtype which runner executes
it. A runner is one entry of RUNNERS; its arithmetic is its own file's subject.
"""

from __future__ import annotations

import dataclasses
import logging
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

logger = logging.getLogger(__name__)

DType = Literal["auto", "bfloat16", "float16", "float32"]
Backend = Literal["auto", "native", "torch", "triton"]
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


def _triton(checkpoint: Checkpoint, options: RunnerOptions) -> Runner:
    from bowsprit_engine.models.triton_runner import TritonRunner

    return TritonRunner(checkpoint, dtype=options.dtype, device=options.device)


RUNNERS: Mapping[str, Callable[[Checkpoint, RunnerOptions], Runner]] = {
    "native": _native,
    "torch": _torch,
    "triton": _triton,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model whose config, tokenizer and tensor names were read and checked, and whose weights are still on disk."""

    config: ModelConfig
    tokenizer: Any
    digest: str
    options: RunnerOptions
    backend: str  # a key of RUNNERS
    checkpoint: Checkpoint

    def load(self) -> LoadedModel:
        """Read the weights. Raises ModelError naming the path and the tensor."""
        runner = RUNNERS[self.backend](self.checkpoint, self.options)
        return LoadedModel(runner=runner, config=self.config, tokenizer=self.tokenizer, digest=self.digest)


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
    """`open_model` and its weights in one go. Raises ModelError naming the path and the cause."""
    return open_model(
        path,
        dtype=dtype,
        max_model_len=max_model_len,
        device=device,
        backend=backend,
        load_format=load_format,
        num_threads=num_threads,
    ).load()


def open_model(
    path: Path,
    *,
    dtype: DType = "auto",
    max_model_len: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    load_format: LoadFormat = "auto",
    num_threads: int | None = None,
) -> OpenedModel:
    """Open a .gguf file or a Hugging Face folder. Raises ModelError naming the path and the cause.

    dtype "auto" is bfloat16, whatever the checkpoint holds: weights are stored so; the native runner computes in
    float32. backend "auto" is native for bfloat16 on the CPU, else torch. load_format "dummy" reads the config and,
    where there is one, the tokenizer, and draws the weights at random: for measurements, never for answers.
    """
    options = RunnerOptions(
        dtype=_resolve_dtype(path, dtype), device=_resolve_device(path, device), num_threads=num_threads
    )
    chosen = _resolve_backend(path, backend, options)
    source = _read(path, load_format, options.device)
    checkpoint = source.checkpoint
    checkpoint.config = _with_max_model_len(path, checkpoint.config, max_model_len)
    check_names(checkpoint)
    if load_format == "dummy":
        logger.warning("%s: the weights are RANDOM (load format dummy): answers mean nothing, only speed does", path)
    return OpenedModel(
        config=checkpoint.config,
        tokenizer=source.tokenizer,
        digest=source.digest,
        options=options,
        backend=chosen,
        checkpoint=checkpoint,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    checkpoint: Checkpoint
    tokenizer: Any
    digest: str


def _read(path: Path, load_format: LoadFormat, device: torch.device) -> _Source:
    if load_format not in ("auto", "dummy"):
        raise ModelError(
            f"{path}: load_format {load_format!r} is not one of: auto, dummy", reason="UnsupportedLoadFormat"
        )
    if path.is_dir():
        return _dummy_folder(path, device) if load_format == "dummy" else _read_folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return _read_gguf(path, dummy_on=device if load_format == "dummy" else None)
    if path.exists():
        raise ModelError(f"{path}: neither a .gguf file nor a folder with config.json", reason="UnsupportedModel")
    raise ModelError(f"{path}: no such file or folder", reason="ModelNotFound")


def _read_folder(path: Path) -> _Source:
    from bowsprit_engine.models import weights
    from bowsprit_engine.models.config_hf import read_json

    checkpoint = weights.HfCheckpoint(path)
    digest = model_digest(
        config=read_json(path / "config.json"),
        tokenizer=tokenizer_files_digest(path),
        weight_files=weights.weight_files(path),
    )
    return _Source(checkpoint=checkpoint, tokenizer=weights.load_tokenizer(path), digest=digest)


def _dummy_folder(path: Path, device: torch.device) -> _Source:
    """config.json is all that it needs."""
    from bowsprit_engine.models import weights
    from bowsprit_engine.models.byte_tokenizer import byte_tokenizer
    from bowsprit_engine.models.config_hf import read_config, read_json

    config = read_config(path)
    has_tokenizer = (path / "tokenizer.json").is_file()
    return _Source(
        checkpoint=RandomCheckpoint(path, config, device=device),
        tokenizer=weights.load_tokenizer(path) if has_tokenizer else byte_tokenizer(path, config),
        digest=model_digest(
            config=read_json(path / "config.json"), tokenizer=tokenizer_files_digest(path), weight_files=[]
        ),
    )


def _read_gguf(path: Path, *, dummy_on: torch.device | None) -> _Source:
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
    if name == "triton" and options.device.type != "cuda":
        raise ModelError(
            f"{path}: the triton backend runs on a CUDA device, not on {options.device}", reason="UnsupportedDevice"
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
