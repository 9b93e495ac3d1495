"""Who executes a model: one entry of RUNNERS, by device, dtype and what was asked for.

Decides what "auto" means and which combinations are refused. A runner's arithmetic is its own file's subject, and
imported when it is chosen: the others need libraries or devices that this machine may lack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bowsprit_engine.core.runner import Runner
from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.checkpoint import Checkpoint

DType = Literal["auto", "bfloat16", "float16", "float32"]
Backend = Literal["auto", "native", "torch", "triton"]

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
# The oldest that the kernels are built for (kernels/resources.csv), with bfloat16 in its matrix unit.
TRITON_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What a runner is built with; "auto" is resolved."""

    backend: str  # a key of RUNNERS
    dtype: torch.dtype
    device: torch.device
    num_threads: int | None  # None: as many as the CPUs that this process may use

    @classmethod
    def resolved(
        cls, path: Path, *, backend: Backend, dtype: DType, device: str, num_threads: int | None
    ) -> RunnerOptions:
        """Raises ModelError naming `path`, the value and the choices."""
        weights, place = _resolve_dtype(path, dtype), _resolve_device(path, device)
        name = _resolve_backend(path, backend, dtype=weights, device=place)
        return cls(backend=name, dtype=weights, device=place, num_threads=num_threads)


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


def _resolve_backend(path: Path, backend: str, *, dtype: torch.dtype, device: torch.device) -> str:
    can_native = device.type == "cpu" and dtype == torch.bfloat16
    name = _fastest(can_native=can_native, device=device) if backend == "auto" else backend
    if name not in RUNNERS:
        raise ModelError(
            f"{path}: backend {backend!r} is not one of: auto, {', '.join(RUNNERS)}", reason="UnsupportedBackend"
        )
    if name == "native" and not can_native:
        raise ModelError(
            f"{path}: the native backend runs bfloat16 weights on the CPU, not {dtype} on {device}",
            reason="UnsupportedDtype",
        )
    if name == "triton" and device.type != "cuda":
        raise ModelError(
            f"{path}: the triton backend runs on a CUDA device, not on {device}", reason="UnsupportedDevice"
        )
    return name


def _fastest(*, can_native: bool, device: torch.device) -> str:
    if can_native:
        return "native"
    is_card = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TRITON_CAPABILITY
    return "triton" if is_card else "torch"
