"""Which KV block belongs to whom, and what is still in those that nobody owns: exact ownership by counting.

Decides which block is given away next: an empty one, else the one whose contents nobody has used for longest. Doesn't
decide who gets blocks (the scheduler does), doesn't know what a label means (the prefix cache does) and never touches
the cache's memory (the runner does).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_SIZE = 16  # tokens per block; the runner's constant, repeated because core.runner imports torch


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_SIZE)


class BlockAllocator:
    """Block ids of a cache of `num_blocks` blocks. A block has as many owners as took it and didn't give it back.

    A labelled block can be found and shared for as long as it isn't given away with new contents, owned or not.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # labelled, unowned; the longest unused first
        self._num_owners = [0] * num_blocks
        self._labels: dict[int, bytes] = {}
        self._labelled: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give: those that nobody owns."""
        return len(self._empty) + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that nobody owns and whose contents can still be shared."""
        return len(self._kept)

    @property
    def usage(self) -> float:
        """Share of the blocks that are owned, 0 to 1."""
        return 1.0 - self.num_free / self.num_blocks

    def num_owners(self, block: int) -> int:
        return self._num_owners[block]

    def allocate(self, count: int) -> list[int]:
        """`count` blocks for new contents, now owned. Raises ValueError when fewer are free: ask `num_free` first."""
        if count > self.num_free:
            raise ValueError(f"{count} KV blocks asked for, {self.num_free} of {self.num_blocks} are free")
        blocks = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for block in blocks:
            self._num_owners[block] = 1
        return blocks

    def share(self, block: int) -> None:
        """One more owner of a labelled block, which must not be written from now on."""
        if block not in self._labels:
            raise ValueError(f"KV block {block} has no label: its contents are not for sharing")
        self._kept.pop(block, None)
        self._num_owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks of one sequence back. Raises ValueError for one that nobody owns.

        The last ones are given away first: a prefix is useful without its continuation, never the other way round.
        """
        for block in reversed(blocks):
            if not self._num_owners[block]:
                raise ValueError(f"KV block {block} is released but nobody owns it")
            self._num_owners[block] -= 1
            if not self._num_owners[block]:
                self._put_back(block)

    def label(self, block: int, label: bytes) -> None:
        """Let an owned block be found by what is in it. The first block of a label stays the one that is found."""
        if label not in self._labelled and block not in self._labels:
            self._labels[block] = label
            self._labelled[label] = block

    def unlabel(self, block: int) -> None:
        """Let nobody find a block any more. Whoever owns it keeps it."""
        label = self._labels.pop(block, None)
        if label is not None:
            del self._labelled[label]
        if block in self._kept:
            del self._kept[block]
            self._empty.append(block)

    def find(self, label: bytes) -> int | None:
        return self._labelled.get(label)

    def _put_back(self, block: int) -> None:
        if block in self._labels:
            self._kept[block] = None
        else:
            self._empty.append(block)

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._labelled[self._labels.pop(block)]
        return block
