"""Memory that packed weights are read from at every step: in large pages, so that reading isn't held up by page walks.

Decides where a weight lies. Knows nothing of its layout. Where Linux grants no large pages it is plain memory.
"""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

CHUNK_BYTES = 64 << 20
CACHE_LINE_BYTES = 64  # a vector or a tile's row never lies across two lines
BF16_BYTES = 2


class WeightMemory:
    """Hands out pieces of large chunks. A chunk is freed with the last tensor that lies in it."""

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._used_bytes = 0

    def take(self, num_elements: int) -> Tensor:  # [num_elements] bfloat16, not initialised
        num_bytes = -(-num_elements * BF16_BYTES // CACHE_LINE_BYTES) * CACHE_LINE_BYTES
        if self._chunk is None or self._used_bytes + num_bytes > len(self._chunk):
            self._chunk, self._used_bytes = _mapped(max(CHUNK_BYTES, num_bytes)), 0
        begin, self._used_bytes = self._used_bytes, self._used_bytes + num_bytes
        return torch.frombuffer(self._chunk, dtype=torch.bfloat16, count=num_elements, offset=begin)


def _mapped(num_bytes: int) -> mmap.mmap:
    chunk = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that is built without them
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk
