"""Which KV block belongs to whom: a free list with proof of ownership.

Decides nothing about who gets blocks (the scheduler does) and never touches the cache's memory (the runner does).
"""

from __future__ import annotations

from collections.abc import Sequence

BLOCK_SIZE = 16  # tokens per block; the runner's constant, repeated because core.runner imports torch


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_SIZE)


class BlockAllocator:
    """Hands out block ids of a cache of `num_blocks` blocks. A block has at most one owner."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_owned = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that are owned, 0 to 1."""
        return 1.0 - len(self._free) / self.num_blocks

    def allocate(self, count: int) -> list[int]:
        """`count` blocks, now owned. Raises ValueError when fewer are free: ask `num_free` first."""
        if count > len(self._free):
            raise ValueError(f"{count} KV blocks asked for, {len(self._free)} of {self.num_blocks} are free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._is_owned[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back. Raises ValueError for one that nobody owns."""
        for block in blocks:
            if not self._is_owned[block]:
                raise ValueError(f"KV block {block} is released but nobody owns it")
            self._is_owned[block] = 0
            self._free.append(block)
