"""How kernels are launched: block sizes and warps per operation, with what each was chosen on.

Constants only; there is no autotune in the serving path. A kernel with shapes of its own has its table in its file.
Numbers that change from step to step are never specialised on (`do_not_specialize`), else a kernel would be compiled
while requests wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`block`: vocabulary entries per iteration of a row's program. `num_warps`: of 32 threads."""

    block: int
    num_warps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One kernel as serving launches it, for the ahead-of-time build (`resources.py`).

    `arguments`: Triton's type of each run-time argument in order; a trailing ":16" says that the address or the number
    is a multiple of 16, which is what a launch with torch's tensors and a model's strides specialises on.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


TYPES: Mapping[torch.dtype, Any] = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def dot_type(dtype: torch.dtype) -> Any:
    """What operands of tl.dot are converted to: their own type; float32 in the interpreter, whose bf16 dot is wrong."""
    return tl.float32 if triton.knobs.runtime.interpret else TYPES[dtype]


# 2048 entries over 8 warps are 8 per thread, which the ahead-of-time builds hold in registers without a spill.
VERIFY = Launch(block=2048, num_warps=8)
