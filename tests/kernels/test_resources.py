"""What every kernel takes of a GPU, built ahead of time for three architectures, against the committed table."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import triton

from bowsprit_engine.kernels import filters, resources
from bowsprit_engine.kernels.gemm import TILES

FRESH = """
import json, dataclasses
from bowsprit_engine.kernels import resources
print(json.dumps([dataclasses.asdict(row) for row in resources.build_all()]))
"""


pytestmark = pytest.mark.timeout(900)  # a minute of one core, where there is one


@pytest.fixture(scope="module")
def built():
    """In a process of its own: one that interprets Triton, or forked, can't compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment, timeout=880, check=False
    )
    assert done.returncode == 0, done.stderr
    return [resources.Resources(**row) for row in json.loads(done.stdout)]


def test_every_kernel_is_in_the_table_for_every_architecture():
    """A kernel or a tile that is added has to be recorded."""
    expected = [(build.name, sm) for build in resources.BUILDS for sm in resources.ARCHITECTURES]

    assert expected == [(row.kernel, row.sm) for row in resources.recorded()]


def test_no_kernel_spills(built):
    """Whatever version of Triton compiled it."""
    assert {row.kernel: row.stack_bytes for row in built if row.stack_bytes} == {}


def test_builds_take_what_the_table_says(built):
    """Registers, shared memory and matrix instruction, where Triton is the recorded version; else regenerate it."""
    recorded = resources.recorded()
    if {row.triton for row in recorded} != {triton.__version__}:
        pytest.skip(f"the table is Triton {recorded[0].triton}'s: python -m bowsprit_engine.kernels.resources")

    assert recorded == built


@pytest.mark.parametrize("sm", resources.ARCHITECTURES)
def test_products_of_every_width_use_one_matrix_instruction(sm):
    """Equal bits for a row alone and among others need the same unit to add the same k in the same order."""
    used = {row.matrix_instruction for row in resources.recorded() if row.kernel.startswith("gemm") and row.sm == sm}

    tiles = {build.constants["BLOCK_M"] for build in resources.BUILDS if build.name.startswith("gemm")}
    assert tiles == {tile.rows for tile in TILES}
    assert len(used) == 1
    assert used != {""}


@pytest.mark.parametrize("sm", resources.ARCHITECTURES)
def test_the_filters_programs_that_meet_fit_a_multiprocessor(sm):
    """As many as are launched at once: one that had to wait for another's end would be waited for, for ever."""
    [used] = [row for row in resources.recorded() if row.kernel == "filters" and row.sm == sm]

    threads = filters.PROGRAMS_AT_ONCE * 32 * used.num_warps
    assert used.registers * threads <= 2**16
