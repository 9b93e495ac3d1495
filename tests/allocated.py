"""What malloc has given out, by glibc's own count: Python's small objects are elsewhere."""

from __future__ import annotations

import ctypes

COUNTS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class _Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in COUNTS)


def allocated_bytes() -> int:
    """In use now, by the whole process."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Allocated
    now = libc.mallinfo2()
    return int(now.uordblks + now.hblkhd)
