"""The binding of the native library (bowsprit_engine/native, C++) by ctypes, which releases the GIL during a call.

Decides which compiled variant this processor runs and loads it once per process; names where it looked when there is
none. Knows tensors' layouts for C++ and nothing of models on disk.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import byref, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels.native_abi import SIGNATURES, DrawArgs, PackedArgs, ReadArgs
from bowsprit_engine.kernels.weight_memory import WeightMemory
from bowsprit_engine.native.cpus import available_cpus, cpus_to_pin
from bowsprit_engine.native.loading import open_library
from bowsprit_engine.native.variants import (
    CHOSEN_VARIANT,
    VARIANTS,
    content_hash,
    cpu_features,
    search_path,
    usable,
)

WORD_BYTES = 8
MULTIPLE = 16  # hidden size, MLP width and head_dim of a model must be multiples of it


def library() -> ctypes.CDLL:
    """The best library for this processor, or the one that BOWSPRIT_NATIVE_VARIANT names, loaded once.

    It has as many threads as processors. Raises WorldError naming where it looked.
    """
    return _loaded(os.environ.get(CHOSEN_VARIANT) or None)


@functools.cache
def _loaded(name: str | None) -> ctypes.CDLL:
    loaded = first_permitted(find_libraries(cpu_features(), search_path(), name))
    _configure(loaded, available_cpus())
    return loaded


def first_permitted(paths: Sequence[Path]) -> ctypes.CDLL:
    """The first library whose instructions the operating system grants: AMX's have to be asked for."""
    for path in paths:
        loaded = load(path)
        if loaded.bowsprit_is_permitted():
            return loaded
    refused = ", ".join(path.name for path in paths)
    raise WorldError(f"the operating system refuses the instructions of {refused}", reason="CpuNotSupported")


def find_libraries(features: frozenset[str], folders: Sequence[Path], name: str | None = None) -> list[Path]:
    """The variants (or the named one) that a processor with these features runs, the best first.

    Each from the first folder that has it. Raises WorldError when there is none.
    """
    variants = usable(features, name)
    if not variants and name is not None:
        names = ", ".join(variant.name for variant in usable(features)) or "none"
        raise WorldError(f"{CHOSEN_VARIANT} is {name!r}, this processor runs {names}", reason="CpuNotSupported")
    if not variants:
        raise WorldError("the native kernels need a processor with AVX2, FMA and BMI2", reason="CpuNotSupported")
    places = [[folder / variant.file_name for folder in folders] for variant in variants]
    found = [next(path for path in paths if path.is_file()) for paths in places if any(map(Path.is_file, paths))]
    if found:
        return found
    looked = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise WorldError(
        f"no {' or '.join(variant.file_name for variant in variants)} in {looked}: "
        "build it with `python -m bowsprit_engine.native.build`",
        reason="NativeLibraryMissing",
    )


def load(path: Path) -> ctypes.CDLL:
    """Load one library file and declare its functions.

    Raises WorldError for a file that is no library of these sources.
    """
    return open_library(path, SIGNATURES, built_from=content_hash())


def set_num_threads(num_threads: int) -> None:
    """Threads of the process's pool, from the next plan on: a step that is running keeps those that it has."""
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}, the least is 1")
    if num_threads != library().bowsprit_num_threads():
        _configure(library(), num_threads)


def num_threads() -> int:
    """Threads of the process's pool."""
    return int(library().bowsprit_num_threads())


def variant() -> str:
    """Name of the instruction set in use."""
    name: bytes = library().bowsprit_variant()
    return name.decode()


def activation_dtype() -> torch.dtype:
    """What the instruction set in use rounds the inputs of a matrix product to."""
    used = next(each for each in VARIANTS if each.name == variant())
    return torch.bfloat16 if used.activations == "bfloat16" else torch.float32


def _configure(loaded: ctypes.CDLL, num_threads: int) -> None:
    cpus = cpus_to_pin(num_threads)
    check(loaded, loaded.bowsprit_configure(num_threads, (c_int * len(cpus))(*cpus), len(cpus)))


def check(loaded: ctypes.CDLL, status: int) -> None:
    if status:
        message: bytes = loaded.bowsprit_last_error()
        raise RuntimeError(f"native kernels: {message.decode()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A [rows, columns] weight as bf16 in the layout of gemm.hpp; columns are even (padded with zeros)."""

    storage: Tensor  # [packed elements] bfloat16
    rows: int
    columns: int

    @classmethod
    def of(cls, weight: Tensor, memory: WeightMemory) -> PackedWeight:  # [rows, columns], any floating dtype
        source = weight.detach().to(device="cpu", dtype=torch.bfloat16)
        if source.shape[1] % 2:
            source = torch.nn.functional.pad(source, (0, 1))
        source = source.contiguous()
        rows, columns = source.shape
        storage = memory.take(library().bowsprit_packed_size(rows, columns))
        library().bowsprit_pack(source.data_ptr(), storage.data_ptr(), rows, columns)
        return cls(storage=storage, rows=rows, columns=columns)

    @property
    def num_bytes(self) -> int:
        return self.storage.numel() * self.storage.itemsize

    def args(self) -> PackedArgs:
        return PackedArgs(data=self.storage.data_ptr(), rows=self.rows, columns=self.columns)

    def take_rows(self, ids: Tensor) -> Tensor:  # [n] int64 to [n, columns] float32
        """Rows as float32. Raises IndexError for an id outside the weight."""
        wanted = ids.to(device="cpu", dtype=torch.int64).contiguous()
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.rows:
            raise IndexError(f"row {int(wanted.min())}..{int(wanted.max())} is not within 0 and {self.rows - 1}")
        out = torch.empty(wanted.numel(), self.columns)
        library().bowsprit_unpack_rows(byref(self.args()), wanted.data_ptr(), wanted.numel(), out.data_ptr())
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadThrough:
    """Processor seconds over all threads, and the sum of all 64-bit words modulo 2^64: proof that they were read."""

    cpu_seconds: float
    sum_of_words: int


def read_through(weights: Sequence[PackedWeight]) -> ReadThrough:
    """Read weights once with all threads, as a step does that computes nothing."""
    regions = (c_void_p * len(weights))(*(weight.storage.data_ptr() for weight in weights))
    num_words = (c_int64 * len(weights))(*(weight.num_bytes // WORD_BYTES for weight in weights))
    args = ReadArgs(num_regions=len(weights), regions=regions, num_words=num_words)
    check(library(), library().bowsprit_read_through(byref(args)))
    return ReadThrough(cpu_seconds=args.cpu_seconds, sum_of_words=args.sum)


class PackedLinear:
    """x @ weight^T with the weight kept as packed bf16; a row's result is bitwise independent of the number of rows."""

    def __init__(self, weight: Tensor) -> None:  # [N, K]
        self._in_features = weight.shape[1]
        self._weight = PackedWeight.of(weight, WeightMemory())

    def __call__(self, x: Tensor) -> Tensor:  # [M, K] float32 to [M, N] float32
        if x.ndim != 2 or x.shape[1] != self._in_features:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [rows, {self._in_features}]")
        values = x.detach().to(device="cpu", dtype=torch.float32)
        if self._in_features != self._weight.columns:
            values = torch.nn.functional.pad(values, (0, 1))
        values = values.contiguous()
        out = torch.empty(values.shape[0], self._weight.rows)
        status = library().bowsprit_linear(
            byref(self._weight.args()), values.data_ptr(), values.shape[0], out.data_ptr()
        )
        check(library(), status)
        return out


def draw(
    logits: Tensor,  # [rows, vocab] float32
    temperature: Tensor,  # [rows] float32
    top_k: Tensor,  # [rows] int32
    top_p: Tensor,  # [rows] float32
    min_p: Tensor,  # [rows] float32
    seeds: Tensor,  # [rows] int64, the seed's 64 bits
    positions: Tensor,  # [rows] int64, of the token being drawn
) -> Tensor:  # [rows] int64
    """The keyed draw of kernels/reference.py for every row."""
    num_rows, vocab_size = logits.shape
    tensors = {
        "logits": logits.to(torch.float32).contiguous(),
        "temperature": temperature.to(torch.float32).contiguous(),
        "top_k": top_k.to(torch.int32).contiguous(),
        "top_p": top_p.to(torch.float32).contiguous(),
        "min_p": min_p.to(torch.float32).contiguous(),
        "seeds": seeds.to(torch.int64).contiguous(),
        "positions": positions.to(torch.int64).contiguous(),
        "token_ids": torch.empty(num_rows, dtype=torch.int64),
    }
    for name, tensor in tensors.items():
        if tensor.shape[0] != num_rows:
            raise ValueError(f"{name} has {tensor.shape[0]} rows, logits have {num_rows}")
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    args = DrawArgs(num_rows=num_rows, vocab_size=vocab_size, **pointers)
    check(library(), library().bowsprit_draw(byref(args)))
    return tensors["token_ids"]


def philox_words(*, seed: int, position: int, first: int, count: int) -> Tensor:  # [count] int64
    """First Philox output words of the counters (first + i, position, 0, 0), for tests of the draw's noise."""
    words = torch.empty(count, dtype=torch.int32)
    library().bowsprit_philox(seed, position, first, count, words.data_ptr())
    return words.to(torch.int64) & 0xFFFFFFFF
