"""What is swept: the candidates and the cells, by value. FULL is a card's, SMALL a rehearsal's.

Knows no measuring. A candidate that another one beats everywhere is worth a line here no longer than it costs time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from bench.gpu import scale
from bench.gpu.scale import Scale
from bowsprit_engine.kernels.gemm import SHORTEST_SPLIT, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Attention's constants, by its module's names."""

    tile: int
    block_k: int
    num_warps: int
    num_stages: int
    split: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells of attention are (batch, rows of each sequence, context), of steps (batch, rows of each sequence)."""

    scale: Scale
    product_rows: tuple[int, ...]
    tiles: tuple[Tile, ...]
    splits: tuple[int, ...]
    shortest_split: int
    most_programs: int  # of a product with splits, a tile of 64 columns each
    attention_cells: tuple[tuple[int, int, int], ...]
    blocks: tuple[Blocks, ...]
    least_walking_rows: int
    sampling_rows: tuple[int, ...]
    step_cells: tuple[tuple[int, int], ...]


def _tiles(rows: int, *shapes: tuple[int, int, int, int]) -> tuple[Tile, ...]:
    """Of columns, depth, warps, stages."""
    return tuple(
        Tile(rows=rows, columns=columns, depth=depth, num_warps=warps, num_stages=stages)
        for columns, depth, warps, stages in shapes
    )


FULL = Grid(
    scale=scale.QUICK,
    product_rows=(1, 16, 32, 64, 96, 192, 512),
    tiles=(
        *_tiles(16, (64, 128, 4, 3), (64, 128, 4, 4), (64, 256, 4, 3)),
        *_tiles(32, (64, 128, 4, 3), (64, 128, 4, 4), (64, 256, 4, 2)),
        *_tiles(64, (64, 128, 4, 3), (64, 128, 4, 4), (64, 64, 4, 4), (128, 64, 8, 4)),
        *_tiles(128, (64, 64, 4, 4), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 4)),
        *_tiles(256, (64, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 4)),
    ),
    splits=(1, 2, 4, 8),
    shortest_split=SHORTEST_SPLIT,
    most_programs=512,
    attention_cells=(
        (1, 1, 1024),
        (1, 1, 16000),
        (1, 5, 1024),
        (1, 16, 1024),
        (8, 1, 1024),
        (8, 9, 1024),
        (32, 1, 1024),
        (32, 5, 1024),
        (32, 16, 1024),
    ),
    blocks=tuple(
        Blocks(tile=tile, block_k=block_k, num_warps=warps, num_stages=stages, split=split)
        for (tile, warps), block_k, stages, split in itertools.product(
            ((16, 4), (32, 4), (64, 4), (64, 8)), (32, 64), (2, 3), (128, 256, 512)
        )
    ),
    least_walking_rows=32,
    sampling_rows=(1, 5, 16, 72, 512),
    step_cells=((1, 1), (1, 5), (8, 1), (8, 5), (8, 9), (32, 1), (32, 5), (32, 16)),
)
SMALL = Grid(
    scale=scale.SMALL,
    product_rows=(1, 40),
    tiles=(*_tiles(16, (64, 32, 4, 2)), *_tiles(64, (64, 64, 4, 2))),
    splits=(1, 2),
    shortest_split=32,
    most_programs=4,
    attention_cells=((1, 1, 20), (2, 3, 40)),
    blocks=(
        Blocks(tile=16, block_k=16, num_warps=4, num_stages=2, split=32),
        Blocks(tile=32, block_k=16, num_warps=4, num_stages=2, split=64),
    ),
    least_walking_rows=6,
    sampling_rows=(1, 3),
    step_cells=((1, 1), (2, 3)),
)
