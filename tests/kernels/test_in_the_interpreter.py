"""The Triton kernels and their runner without a GPU, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)  # a minute of one core, where there is one
def test_kernels_agree_with_their_references_in_the_interpreter():
    """The folder `interpreted` as a pytest run of its own, which names what failed."""
    folder = Path(__file__).with_name("interpreted")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        timeout=880,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
