"""The sum that decides whether an engine starts, and how large "auto" is."""

import pytest

from bowsprit_engine.core.memory_budget import GIB, MIB, MemoryBudget, MemoryLimit, MemoryPart, kv_blocks
from bowsprit_engine.errors import WorldError


def budget(*, weights, kv, limit):
    return MemoryBudget(
        parts=(
            MemoryPart(name="weights", num_bytes=weights, detail="8030.3 M parameters of 2 bytes"),
            MemoryPart(name="KV cache", num_bytes=kv, detail="8192 blocks"),
        ),
        limit=MemoryLimit(num_bytes=limit, source="the container's memory limit"),
        kv_blocks=8192,
    )


def test_a_budget_that_fits_to_the_byte_is_accepted():
    """Nothing is raised, and the sum is the parts'."""
    fits = budget(weights=15 * GIB, kv=GIB, limit=16 * GIB)
    fits.check()

    assert fits.num_bytes == 16 * GIB


def test_a_refusal_names_every_part_the_sum_and_the_limit():
    """And the flags that make it smaller."""
    with pytest.raises(WorldError) as refused:
        budget(weights=15 * GIB, kv=GIB + MIB, limit=16 * GIB).check()

    assert str(refused.value) == (
        "the engine needs 16.00 GiB and the container's memory limit is 16.00 GiB: "
        "weights 15.00 GiB (8030.3 M parameters of 2 bytes), KV cache 1.00 GiB (8192 blocks). "
        "Less is needed with a smaller --max-model-len, --max-batch-size or --kv-cache-memory"
    )
    assert refused.value.reason == "InsufficientMemory"


@pytest.mark.parametrize(
    ("asked", "left", "expected"),
    [
        (None, 4000, 10),  # a quarter of what is left
        (None, 100_000, 40),  # no more than a full batch needs
        (None, 1000, 5),  # never less than one sequence: if that doesn't fit, the budget refuses
        (None, 0, 5),
        (1500, 0, 15),  # what was asked for, whatever is left
        (100_000, 0, 40),
        (199, 100_000, 1),  # too little for one sequence: the engine's own settings refuse it
    ],
)
def test_the_blocks_of_a_cache(asked, left, expected):
    """Blocks of 100 bytes; 40 are useful, 5 hold one sequence."""
    actual = kv_blocks(useful=40, least=5, bytes_per_block=100, asked_bytes=asked, left_bytes=left, share=0.25)

    assert actual == expected
