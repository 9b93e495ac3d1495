"""How kernels are launched: block sizes and warps per operation, with what each was chosen on.

Constants only; there is no autotune in the serving path.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`block`: vocabulary entries per iteration of a row's program. `num_warps`: of 32 threads."""

    block: int
    num_warps: int


# Chosen without a GPU: 2048 entries over 8 warps are 8 per thread, which the ahead-of-time builds for sm_80, sm_90 and
# sm_100 hold in registers without a spill (tests/kernels). To be measured with engine/bench/gpu_check.py.
VERIFY = Launch(block=2048, num_warps=8)
