"""Run by test_verify_kernel.py in its own process: builds the kernel ahead of time, without a GPU and the interpreter.

Prints one JSON line per architecture: what the build's own tools say of registers, spills and shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bowsprit_engine.kernels import launch, verify

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SIGNATURE = {
    "logits_ptr": "*fp32",
    "row_stride": "i32",
    "row_sequences_ptr": "*i32",
    "row_starts_ptr": "*i32",
    "drafts_ptr": "*i64",
    "temperature_ptr": "*fp32",
    "seeds_ptr": "*i64",
    "positions_ptr": "*i32",
    "arrivals_ptr": "*i32",
    "drawn_ptr": "*i64",
    "accepted_ptr": "*i32",
    "vocab_size": "i32",
    "BLOCK": "constexpr",
}


def build(capability: int) -> dict:
    source = ASTSource(
        fn=verify._verify_kernel, signature=SIGNATURE, constexprs={"BLOCK": launch.VERIFY.block}, attrs={}
    )
    kernel = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": launch.VERIFY.num_warps}
    )
    ptx = kernel.asm["ptx"]
    architecture = re.search(r"\.target\s+(\w+)", ptx).group(1)
    ptxas = TOOLS / ("ptxas-blackwell" if capability >= 90 else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        report = subprocess.run(
            [ptxas, "-v", f"-arch={architecture}", path, "-o", Path(folder) / "kernel.cubin"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    return {
        "capability": capability,
        "registers": int(re.search(r"Used (\d+) registers", report).group(1)),
        "spilled_bytes": sum(int(count) for count in re.findall(r"(\d+) bytes spill", report)),
        "shared_bytes": kernel.metadata.shared,
        "cubin_bytes": len(kernel.asm["cubin"]),
    }


if __name__ == "__main__":
    for capability in (80, 90, 100):
        print(json.dumps(build(capability)))
