"""Opening and loading a model: a path to a config, a tokenizer and a digest, and then to a runner with its weights.

Two steps, so that memory can be budgeted between them. What lies at the path is sources.py's matter, who executes it
runners.py's.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowsprit_engine.core.runner import ModelConfig, Runner
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import Checkpoint, check_names
from bowsprit_engine.models.runners import DTYPES, RUNNERS, Backend, DType, RunnerOptions
from bowsprit_engine.models.sources import LoadFormat, read_source

logger = logging.getLogger(__name__)

__all__ = ["DTYPES", "Backend", "DType", "LoadFormat", "LoadedModel", "OpenedModel", "load_model", "open_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to serve. `tokenizer` is a transformers fast tokenizer with its chat template."""

    runner: Runner
    config: ModelConfig
    tokenizer: Any
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model whose config, tokenizer and tensor names were read and checked, and whose weights are still on disk."""

    config: ModelConfig
    tokenizer: Any
    digest: str
    options: RunnerOptions
    checkpoint: Checkpoint

    def load(self) -> LoadedModel:
        """Read the weights. Raises ModelError naming the path and the tensor."""
        runner = RUNNERS[self.options.backend](self.checkpoint, self.options)
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
    float32. backend "auto" is native for bfloat16 on the CPU, triton on a GPU that its kernels are built for, else
    torch. load_format "dummy" reads the config and, where there is one, the tokenizer, and draws the weights at random:
    for measurements, never for answers.
    """
    options = RunnerOptions.resolved(path, backend=backend, dtype=dtype, device=device, num_threads=num_threads)
    source = read_source(path, load_format, options.device)
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
        checkpoint=checkpoint,
    )


def _with_max_model_len(path: Path, config: ModelConfig, max_model_len: int | None) -> ModelConfig:
    if max_model_len is None:
        return config
    if not 1 <= max_model_len <= config.max_model_len:
        raise ModelError(
            f"{path}: max_model_len {max_model_len} is not within 1 and the model's own {config.max_model_len}",
            reason="MaxModelLenOutOfRange",
        )
    return dataclasses.replace(config, max_model_len=max_model_len)
