"""The skinny product: against its reference, and each row's bits whatever rows are beside it."""

from __future__ import annotations

import pytest
import torch

from bowsprit_engine.kernels import gemm

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.bfloat16: {"rtol": 2**-7, "atol": 1e-2}}


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def workspace():
    return gemm.Workspace(torch.device("cpu"))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(1, 1, 1), (5, 70, 37), (17, 65, 1100), (130, 3, 200), (260, 66, 1100)]
)
def test_it_multiplies(workspace, rows, columns, depth, dtype):
    """Every tile width, one split and several, no dimension a multiple of a block; rows of x apart."""
    x, weight = normal(rows, depth + 3, dtype=dtype)[:, :depth], normal(columns, depth, dtype=dtype, seed=1)
    bias = normal(columns, dtype=dtype, seed=2)

    plain = gemm.gemm(x, weight, workspace=workspace)
    biased = gemm.gemm(x, weight, workspace=workspace, bias=bias, out_dtype=torch.float32)

    torch.testing.assert_close(plain, gemm.reference(x, weight), **TOLERANCE[dtype])
    torch.testing.assert_close(
        biased, gemm.reference(x, weight, bias=bias, out_dtype=torch.float32), **TOLERANCE[torch.float32]
    )
    assert not workspace.arrivals.any()


@pytest.mark.parametrize("many_columns", [1, gemm.MANY_COLUMNS])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(workspace, monkeypatch, many_columns):
    """A row alone (16 wide, programs per split) equals the row among more, up to where one program adds all splits."""
    monkeypatch.setattr(gemm, "MANY_COLUMNS", many_columns)
    x, weight = normal(257, 1100), normal(66, 1100, seed=1)
    assert gemm.num_splits(66, 1100) == 2

    among = {count: gemm.gemm(x[:count], weight, workspace=workspace) for count in gemm.ROWS_OF_EACH_BUILD}
    alone = {row: gemm.gemm(x[row : row + 1], weight, workspace=workspace)[0] for row in (0, 7, 19, 39, 129, 256)}

    for count, together in among.items():
        for row, single in alone.items():
            if row < count:
                assert torch.equal(together[row], single), (count, row)


@pytest.mark.parametrize(
    ("columns", "depth", "splits"),
    [(6144, 4096, 1), (4096, 4096, 2), (4096, 14336, 4), (28672, 4096, 1), (128256, 4096, 1), (64, 64, 1)],
)
def test_the_weights_shape_alone_says_how_k_is_split(columns, depth, splits):
    """Llama 3.1 8B's products: narrow ones until they fill a card, deep ones until none is too long, none below 512."""
    assert gemm.num_splits(columns, depth) == splits


def test_a_weight_that_does_not_fit_is_refused(workspace):
    """With both shapes."""
    with pytest.raises(ValueError, match=r"\(2, 4\), the weight torch.float32 \(3, 5\)"):
        gemm.gemm(torch.zeros(2, 4), torch.zeros(3, 5), workspace=workspace)
