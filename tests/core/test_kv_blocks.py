"""The block allocator: exact ownership."""

from __future__ import annotations

import pytest

from bowsprit_engine.core import kv_cache, runner


def test_blocks_are_as_long_as_the_runners():
    """Two modules name the block size, since the allocator imports no torch: they agree."""
    assert runner.BLOCK_SIZE == kv_cache.BLOCK_SIZE


def test_a_block_has_one_owner_at_a_time():
    """All blocks are handed out once; none is left for another."""
    allocator = kv_cache.BlockAllocator(4)

    assert {0, 1, 2, 3} == set(allocator.allocate(3) + allocator.allocate(1))
    assert allocator.usage == 1.0
    with pytest.raises(ValueError, match="1 KV blocks asked for, 0 of 4 are free"):
        allocator.allocate(1)


def test_releasing_twice_is_refused():
    """A second release would give one block to two owners."""
    allocator = kv_cache.BlockAllocator(4)
    blocks = allocator.allocate(2)
    allocator.release(blocks)

    with pytest.raises(ValueError, match="nobody owns it"):
        allocator.release(blocks[:1])


@pytest.mark.parametrize(("num_tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_a_last_block_may_be_partly_used(num_tokens, blocks):
    """Tokens are rounded up to blocks."""
    assert blocks == kv_cache.num_blocks_for(num_tokens)
