"""A trained head's drafts in C++: packed weights once, then all tokens of all sequences in one call without the GIL.

Keeps alive every tensor that C++ points into. Knows nothing of requests, artifacts and other ways to run a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, addressof, byref, c_float, c_int64, cast, sizeof
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bowsprit_engine.kernels.native import MULTIPLE, PackedWeight, check, library
from bowsprit_engine.kernels.native_abi import HeadArgs, HeadDraftArgs, HeadSequence
from bowsprit_engine.kernels.weight_memory import WeightMemory

SEED_BITS = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """D hidden size, W intermediate size, V draft vocabulary; float32 unless said otherwise, as training/head.py's."""

    token_up: Tensor  # [2W, D]
    state_up: Tensor  # [2W, D]
    down: Tensor  # [D, W]
    lm_head: Tensor  # [V, D]
    token_scale: Tensor  # [D]
    state_scale: Tensor  # [D]
    output_scale: Tensor  # [D]
    token_table: Tensor  # [V, 2W], what each draft token adds to the gate and up halves
    token_ids: Tensor  # [V] int64, the target's
    rms_norm_eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    """One sequence. Its last token is row `table_row` of the draft vocabulary, or has an `embedding`."""

    hidden: Tensor  # [D] float32 on the CPU, the input of the target's final norm
    embedding: Tensor | None  # [D] float32 on the CPU
    table_row: int
    num_tokens: int
    temperature: float
    seed: int
    position: int  # of the first drafted token


def fits(*, hidden_size: int, intermediate_size: int) -> bool:
    """Whether the kernels' blocks divide a head of this shape."""
    return hidden_size % MULTIPLE == 0 and intermediate_size % MULTIPLE == 0


class NativeHead:
    """Keeps nothing of a call: any thread may draft, each with buffers of its own."""

    def __init__(self, weights: HeadWeights) -> None:
        """Packs. Raises ValueError for a shape that `fits` refuses."""
        size, inner = weights.down.shape
        if not fits(hidden_size=size, intermediate_size=inner):
            raise ValueError(f"a head of sizes {size} and {inner}, which must be multiples of {MULTIPLE}")
        memory = WeightMemory()
        self._size = size
        padded = -(-len(weights.token_ids) // MULTIPLE) * MULTIPLE
        lm_head = torch.nn.functional.pad(weights.lm_head, (0, 0, 0, padded - len(weights.token_ids)))
        self._packed = {
            "token_up": PackedWeight.of(_alternating(weights.token_up), memory),
            "state_up": PackedWeight.of(_alternating(weights.state_up), memory),
            "down": PackedWeight.of(weights.down, memory),
            "lm_head": PackedWeight.of(lm_head, memory),
        }
        self._plain = {
            "token_scale": _float(weights.token_scale),
            "state_scale": _float(weights.state_scale),
            "output_scale": _float(weights.output_scale),
            "token_table": _float(_alternating(weights.token_table.T).T),
            "token_ids": torch.nn.functional.pad(
                weights.token_ids.to(torch.int32), (0, padded - len(weights.token_ids))
            ).contiguous(),
        }
        self._args = HeadArgs(
            **{name: weight.args() for name, weight in self._packed.items()},
            **{name: tensor.data_ptr() for name, tensor in self._plain.items()},
            vocab_size=len(weights.token_ids),
            rms_norm_eps=weights.rms_norm_eps,
        )

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        plain = sum(tensor.numel() * tensor.itemsize for tensor in self._plain.values())
        return plain + sum(weight.num_bytes for weight in self._packed.values())

    def draft(
        self, rows: Sequence[HeadRow], *, confidence_temperature: float
    ) -> list[tuple[list[int], list[float]]]:  # per row: target ids, and the winner's share for each
        """Raises ValueError for a state or an embedding of another size, RuntimeError for a row that C++ refuses."""
        ends = [0]
        for row in rows:
            ends.append(ends[-1] + row.num_tokens)
        token_ids, confidences = (c_int64 * ends[-1])(), (c_float * ends[-1])()
        sequences = (HeadSequence * len(rows))()
        for index, row in enumerate(rows):
            begin = ends[index]
            sequences[index] = HeadSequence(
                hidden=self._pointer(row.hidden),
                embedding=None if row.embedding is None else self._pointer(row.embedding),
                table_row=row.table_row,
                num_tokens=row.num_tokens,
                temperature=row.temperature,
                seed=row.seed & SEED_BITS,
                position=row.position,
                token_ids=addressof(token_ids) + begin * sizeof(c_int64),
                confidences=addressof(confidences) + begin * sizeof(c_float),
            )
        args = HeadDraftArgs(
            num_sequences=len(rows),
            sequences=cast(sequences, POINTER(HeadSequence)),
            confidence_temperature=confidence_temperature,
        )
        check(library(), library().bowsprit_head_draft(byref(self._args), byref(args)))
        return [(token_ids[begin:end], confidences[begin:end]) for begin, end in pairwise(ends)]

    def _pointer(self, values: Tensor) -> int:
        if values.shape != (self._size,) or values.dtype is not torch.float32 or not values.is_contiguous():
            raise ValueError(
                f"a row of shape {tuple(values.shape)} and type {values.dtype}, expected ({self._size},) of float32, "
                "contiguous"
            )
        return values.data_ptr()


def _alternating(gate_and_up: Tensor) -> Tensor:  # [2W, n] to [2W, n]
    """Blocks of 16 gate rows and 16 up rows in turn."""
    halves = gate_and_up.reshape(2, -1, MULTIPLE, gate_and_up.shape[1])
    return halves.transpose(0, 1).flatten(0, 2)


def _float(tensor: Tensor) -> Tensor:
    """A copy: the head that it is taken from may be trained on."""
    return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
