"""Paged attention: prefill, decode and verify rows in one launch, and each row's bits whatever rows are beside it."""

from __future__ import annotations

import pytest
import torch

from bowsprit_engine.kernels import attention

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 2**-6, "atol": 2e-3}}
# A prompt's chunk, a decode row in its second split, a draft across the border of splits, a first token.
SEQUENCES = {0: range(10, 24), 1: range(700, 701), 2: range(509, 515), 3: range(1)}


def ragged(*, group, head_dim, dtype=torch.float32):
    """Rows of SEQUENCES over shuffled blocks; every slot that no row may read holds NaN."""
    generator = torch.Generator().manual_seed(3)
    num_kv_heads = 2
    tables = torch.randperm(4 * 50, generator=generator).reshape(4, 50)[:, :45]
    cache = torch.full((2, 200 * 16, num_kv_heads, head_dim), torch.nan)
    for sequence, positions in SEQUENCES.items():
        context = torch.arange(positions[-1] + 1)
        slots = tables[sequence][context // 16] * 16 + context % 16
        cache[:, slots] = torch.randn(2, len(slots), num_kv_heads, head_dim, generator=generator)
    rows = [(position, sequence) for sequence, positions in SEQUENCES.items() for position in positions]
    wide = torch.randn(len(rows), num_kv_heads * group + 2, head_dim, generator=generator)
    return {
        "q": wide.to(dtype)[:, : num_kv_heads * group],
        "cache": cache.to(dtype),
        "positions": torch.tensor([position for position, _ in rows], dtype=torch.int32),
        "row_sequences": torch.tensor([sequence for _, sequence in rows], dtype=torch.int32),
        "block_tables": tables.to(torch.int32),
    }


def attend(case, chosen=slice(None), **options):
    part = {name: case[name][chosen].contiguous() for name in ("positions", "row_sequences")}
    starts = attention.run_starts(part["row_sequences"])
    tables = case["block_tables"]
    return attention.attention(case["q"][chosen], case["cache"], starts=starts, block_tables=tables, **part, **options)


@pytest.mark.parametrize(
    ("group", "head_dim", "dtype", "window"),
    [
        (1, 16, torch.float32, None),
        (3, 24, torch.float32, 37),
        (4, 64, torch.bfloat16, None),
        (5, 6, torch.float32, 600),
        (2, 16, torch.float32, 1),
    ],
)
def test_it_attends_as_the_reference_does(group, head_dim, dtype, window):
    """Groups that don't divide a tile, odd head dimensions, windows within a block, over splits, and of one key."""
    case = ragged(group=group, head_dim=head_dim, dtype=dtype)

    actual = attend(case, window=window)

    torch.testing.assert_close(actual, attention.reference(**case, window=window), **TOLERANCE[dtype])


@pytest.mark.parametrize("window", [None, 530])
def test_walking_the_splits_gives_the_bits_of_merging_them(window):
    """Many rows and few rows take different kernels and the same order of sums."""
    case = ragged(group=5, head_dim=16)  # 12 rows a tile: the chunk takes two

    assert torch.equal(attend(case, window=window, walk_above=0), attend(case, window=window, walk_above=1000))


@pytest.mark.parametrize("window", [None, 20])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(window):
    """Each of a few rows alone equals the row among all, at any place in its tile."""
    case = ragged(group=5, head_dim=16)

    together = attend(case, window=window)

    for row in (0, 3, 13, 14, 15, 18, 21):
        assert torch.equal(attend(case, slice(row, row + 1), window=window)[0], together[row]), row


def test_a_run_of_rows_starts_where_the_sequence_changes():
    """Also for sequences that come in any order."""
    sequences = torch.tensor([4, 4, 0, 2, 2, 2], dtype=torch.int32)

    assert attention.run_starts(sequences).tolist() == [0, 0, 2, 3, 3, 3]


def test_heads_that_do_not_fit_the_cache_are_refused():
    """With both shapes."""
    case = ragged(group=1, head_dim=16)
    case["q"] = case["q"][:, :1]

    with pytest.raises(ValueError, match=r"q is \(22, 1, 16\)"):
        attend(case)
