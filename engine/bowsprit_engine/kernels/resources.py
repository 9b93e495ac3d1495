"""What each Triton kernel takes of a multiprocessor: built ahead of time for sm_80, sm_90 and sm_100, without a GPU.

`python -m bowsprit_engine.kernels.resources` writes resources.csv beside this file; a test compares it with a fresh
build. Decides nothing about the kernels: each names in BUILDS how serving launches it.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bowsprit_engine.kernels import attention, filters, gemm, kv_write, ngram, rms_norm, rotary, swiglu, verify
from bowsprit_engine.kernels.launch import Build

TABLE = Path(__file__).with_name("resources.csv")
ARCHITECTURES = (80, 90, 100)
BUILDS: tuple[Build, ...] = (
    *attention.BUILDS,
    *filters.BUILDS,
    *gemm.BUILDS,
    *kv_write.BUILDS,
    *ngram.BUILDS,
    *rms_norm.BUILDS,
    *rotary.BUILDS,
    *swiglu.BUILDS,
    *verify.BUILDS,
)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
MATRIX_INSTRUCTION = re.compile(
    r"(mma\.sync\.aligned\.m\d+n\d+k\d+|wgmma\.mma_async\.sync\.aligned\.m\d+|tcgen05\.mma)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`stack_bytes`: per thread; these kernels have no arrays, so anything on the stack was spilled.

    `shared_bytes`: per program. `matrix_instruction`: the kinds that the PTX holds, "" where there is none.
    """

    kernel: str
    sm: int
    num_warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    matrix_instruction: str
    triton: str


def build(spec: Build, capability: int) -> Resources:
    """Compile one kernel for one architecture. Raises what Triton's compiler raises."""
    signature = {name: kind.removesuffix(":16") for name, kind in spec.arguments.items()}
    multiples = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(spec.arguments.values()) if ":16" in kind}
    source = ASTSource(
        fn=spec.kernel,
        signature=signature | dict.fromkeys(spec.constants, "constexpr"),
        constexprs=dict(spec.constants),
        attrs=multiples,
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": spec.num_warps, "num_stages": spec.num_stages, **spec.options},
    )
    registers, stack_bytes = _usage(compiled.asm["cubin"])
    return Resources(
        kernel=spec.name,
        sm=capability,
        num_warps=spec.num_warps,
        registers=registers,
        stack_bytes=stack_bytes,
        shared_bytes=compiled.metadata.shared,
        matrix_instruction=" ".join(sorted(set(MATRIX_INSTRUCTION.findall(compiled.asm["ptx"])))),
        triton=triton.__version__,
    )


def recorded() -> list[Resources]:
    """The committed table."""
    with TABLE.open(newline="") as file:
        return [Resources(**_typed(row)) for row in csv.DictReader(file)]


def write(rows: Sequence[Resources]) -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Resources)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def build_all() -> list[Resources]:
    return [build(spec, capability) for spec in BUILDS for capability in ARCHITECTURES]


def _usage(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = USAGE.search(report)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage names no registers: {report}")
    return int(found[1]), int(found[2])


def _typed(row: dict[str, str]) -> dict[str, Any]:
    texts = {"kernel", "matrix_instruction", "triton"}
    return {name: value if name in texts else int(value) for name, value in row.items()}


if __name__ == "__main__":
    write(build_all())
    print(f"{TABLE}: {len(recorded())} builds with Triton {triton.__version__}", file=sys.stderr)
