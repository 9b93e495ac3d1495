"""The Triton verify kernel: against the reference in the interpreter, and built ahead of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def lines_of(script: str) -> list[dict]:
    """Run a script of this folder in a process of its own, and read its JSON lines."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_kernel_draws_and_counts_as_the_reference_does():
    """Odd vocabularies, ties, padded rows, greedy and sampled, none to all drafts right."""
    lines = lines_of("interpreted_verify.py")

    assert len(lines) == 16
    assert {line["case"]: line["expected"] for line in lines} == {line["case"]: line["actual"] for line in lines}


@pytest.fixture(scope="module")
def builds():
    return {line["capability"]: line for line in lines_of("compiled_verify.py")}


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_builds_without_spills(builds, capability):
    """Everything stays in registers, and few enough for full occupancy with 8 warps (65536 / 256 / 3 programs)."""
    build = builds[capability]

    assert build["spilled_bytes"] == 0
    assert 0 < build["registers"] <= 80
    assert build["cubin_bytes"] > 0
