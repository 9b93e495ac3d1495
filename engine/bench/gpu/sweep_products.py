"""Which tile, how many splits, and who adds them: each product of the model beside torch's linear.

A candidate is written rows/columns/depth/warps/stages/splits/whole: of gemm.Tile, then the splits of K, then 1 where
one program does all splits of its tile. Splits may be chosen by the weight's shape alone, the rest by the rows too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from bench.gpu.checks import product_shapes
from bench.gpu.scale import Scale
from bench.gpu.sweep_grid import Grid
from bench.gpu.sweep_records import AS_IT_IS, TORCH
from bench.gpu.sweep_timing import Stopwatch, overridden
from bowsprit_engine.kernels import gemm

LEGEND = "rows/columns/depth/warps/stages/splits/whole"
MOST_TILES_OF_ROWS = 4  # beside each other: the weight is read by each
LEAST_ROWS_OF_WHOLE = 64  # below, there would be too few programs


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`whole`: a program does all splits of its tile, in the same order."""

    tile: gemm.Tile
    splits: int
    whole: bool

    @property
    def name(self) -> str:
        t = self.tile
        return "/".join(map(str, (t.rows, t.columns, t.depth, t.num_warps, t.num_stages, self.splits, int(self.whole))))

    def in_force(self) -> AbstractContextManager[None]:
        """Stages as they are named, too: where they don't fit, the launch fails and says so."""
        return overridden(
            gemm,
            tile_for=lambda num_rows, num_columns: self.tile,
            num_splits=lambda num_columns, depth: self.splits,
            num_stages=lambda tile, *, itemsize, device: tile.num_stages,
            MOST_ROWS_IN_SPLITS=-1 if self.whole else 2**31,
        )


def candidates(grid: Grid, *, num_rows: int, num_columns: int, depth: int) -> Iterator[Candidate]:
    """Those worth a try: no tile is half empty, no split too short, no more programs than the card is filled with."""
    for tile in grid.tiles:
        is_too_wide = tile.rows > 16 and num_rows <= tile.rows // 2
        if is_too_wide or num_rows > tile.rows * MOST_TILES_OF_ROWS:
            continue
        for splits in grid.splits:
            has_room = depth >= splits * grid.shortest_split and num_columns // 64 * splits <= grid.most_programs
            if splits > 1 and not has_room:
                continue
            for whole in (False, True) if splits > 1 and tile.rows >= LEAST_ROWS_OF_WHOLE else (False,):
                yield Candidate(tile=tile, splits=splits, whole=whole)


def preparations(grid: Grid, device: torch.device) -> Sequence[Callable[[], object]]:
    """Each compiles one kernel: what the rows and the columns are doesn't matter for it."""
    found = dict.fromkeys(
        (candidate, _out_dtype(name, grid.scale))
        for name, (num_columns, depth) in product_shapes(grid.scale).items()
        for num_rows in grid.product_rows
        for candidate in candidates(grid, num_rows=num_rows, num_columns=num_columns, depth=depth)
    )

    def prepare(candidate: Candidate, out_dtype: torch.dtype) -> None:
        num_columns, depth = product_shapes(grid.scale)["output"]
        x, weight = (torch.zeros(n, depth, dtype=grid.scale.dtype, device=device) for n in (1, num_columns))
        with candidate.in_force():
            gemm.gemm(x, weight, workspace=gemm.Workspace(device), out_dtype=out_dtype)

    return [partial(prepare, *launch) for launch in found]


def run(grid: Grid, stopwatch: Stopwatch) -> None:
    """Every product over as many weights in turn as no cache holds."""
    scale, device = grid.scale, stopwatch.device
    workspace = gemm.Workspace(device)
    for name, (num_columns, depth) in product_shapes(scale).items():
        count = max(1, scale.rotated_bytes // (num_columns * depth * scale.dtype.itemsize))
        weights = [torch.randn(num_columns, depth, device=device).to(scale.dtype) for _ in range(count)]
        out_dtype = _out_dtype(name, scale)
        for num_rows in grid.product_rows:
            x = torch.randn(num_rows, depth, device=device).to(scale.dtype)
            case = f"{name}, {num_rows} rows"
            product = partial(gemm.gemm, x, workspace=workspace, out_dtype=out_dtype)
            time = partial(
                stopwatch.time,
                case=case,
                passes=count,
                result=partial(product, weights[0]),
                expected=gemm.reference(x, weights[0], out_dtype=out_dtype),
            )
            stopwatch.time(partial(_through, partial(linear, x), weights), case=case, candidate=TORCH, passes=count)
            time(partial(_through, product, weights), candidate=AS_IT_IS)
            for candidate in candidates(grid, num_rows=num_rows, num_columns=num_columns, depth=depth):
                with candidate.in_force():
                    time(partial(_through, product, weights), candidate=candidate.name)


def _out_dtype(name: str, scale: Scale) -> torch.dtype:
    return torch.float32 if name == "LM head" else scale.dtype  # logits are not rounded


def _through(product: Callable[[Tensor], Tensor], weights: Sequence[Tensor]) -> None:
    for weight in weights:
        product(weight)
