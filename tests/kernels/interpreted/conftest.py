"""Tests of Triton kernels in its interpreter. TRITON_INTERPRET must be set before Triton is imported, and in a process
that imports it for anything else it isn't: test_in_the_interpreter.py runs this folder in a process of its own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def _products_in_one_order(monkeypatch):
    """tl.dot adds to the sum in the order of K, as a matrix unit does: numpy's own product has an order for each shape.

    On some processors a row's bits would depend on the rows beside it, whatever a kernel does.
    """

    def dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, d: TensorHandle, *_: Any) -> TensorHandle:
        total = d.data.copy()
        for left, right in zip(a.data.T, b.data, strict=True):
            total += np.multiply.outer(left, right)
        return TensorHandle(total, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
