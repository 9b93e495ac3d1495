"""Tests of Triton kernels in its interpreter. TRITON_INTERPRET must be set before Triton is imported, and in a process
that imports it for anything else it isn't: test_in_the_interpreter.py runs this folder in a process of its own."""

from __future__ import annotations

import os

import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
torch.set_num_threads(1)
