"""Step times before any traffic: what this model on this accelerator takes for the buckets that the engine will run.

Decides which cells to time, within a bound of seconds, and keeps the result under the cache directory by accelerator,
model digest and dtype. A contended sample is never mixed with quiet ones: where there are only such, the fastest of
them stands in, marked by its count of contended samples, until a quiet one is had. Knows nothing of drafters and
requests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bowsprit_engine.core.contention import timed_forward
from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.speculation.costs import batch_bucket, context_bucket, rows_bucket
from bowsprit_policy.wire import Profile, StepCell

logger = logging.getLogger(__name__)

SECONDS_BOUND = 4.0
SAMPLES = 5
MOST_CONTENDED = 10  # samples of one cell, after which the next one is tried
CONTEXT = 256
LONG_CONTEXT = 2048
CHUNK_ROWS = 64  # of a prompt, timed at the long context
DRAFTS_TIMED = (0, 4, 2, 1, 3, 6, 8, 12, 16, 24, 32)  # the first ones matter most, should the bound be reached


def cache_directory() -> Path:
    """BOWSPRIT_CACHE_DIR, else the user's own cache."""
    configured = os.environ.get("BOWSPRIT_CACHE_DIR")
    return Path(configured) if configured else Path.home() / ".cache" / "bowsprit"


def load_or_measure(
    runner: Runner, *, model_digest: str, max_batch_size: int, draft_tokens_max: int, kv_blocks: int
) -> Profile:
    """The stored profile, with the cells that it lacks measured now and stored too.

    Needs the KV cache, and no sequence in it. What the bound leaves out, and contended cells, wait for the next start.
    """
    path = _path(runner, model_digest)
    stored = _read(path)
    known = tuple(cell for cell in stored.cells if not _stands_in(cell)) if stored is not None else ()
    measured = {(cell.batch, cell.rows) for cell in known}
    missing = [shape for shape in dict.fromkeys(_grid(max_batch_size, draft_tokens_max)) if shape not in measured]
    long_context = _long_context(runner, stored.long_context if stored is not None else (), kv_blocks=kv_blocks)
    cells = tuple(_measure(runner, missing, kv_blocks=kv_blocks, context=CONTEXT))
    profile = Profile(
        accelerator=runner.accelerator,
        model_digest=model_digest,
        dtype=runner.dtype,
        cells=known + cells,
        long_context=long_context,
    )
    if cells or long_context != (stored.long_context if stored is not None else ()):
        _write(path, profile)
    logger.info(
        "profiled %d step shapes, %d were known, %d left out", len(cells), len(known), len(missing) - len(cells)
    )
    return profile


def _long_context(runner: Runner, known: tuple[StepCell, ...], *, kv_blocks: int) -> tuple[StepCell, ...]:
    """A chunk of a prompt at the longest context up to LONG_CONTEXT; nothing for models that have no long one."""
    longest = min(LONG_CONTEXT, runner.config.max_model_len, kv_blocks * BLOCK_SIZE)
    context = 1 << (longest.bit_length() - 1)
    if context <= CONTEXT or any(cell.context >= context and not _stands_in(cell) for cell in known):
        return known
    return tuple(_measure(runner, [(1, CHUNK_ROWS)], kv_blocks=kv_blocks, context=context))


def _grid(max_batch_size: int, draft_tokens_max: int) -> Iterator[tuple[int, int]]:
    """(batch, rows) in order of importance: K=0 and K=4 of every batch bucket first."""
    drafts = [k for k in DRAFTS_TIMED if k < draft_tokens_max]
    batches = [1 << power for power in range(batch_bucket(max_batch_size).bit_length())]
    for k in dict.fromkeys([*drafts[:2], draft_tokens_max, *drafts[2:]]):
        for batch in batches:
            yield batch, rows_bucket(batch * (1 + k))


def _measure(runner: Runner, grid: list[tuple[int, int]], *, kv_blocks: int, context: int) -> Iterator[StepCell]:
    deadline = time.perf_counter() + SECONDS_BOUND
    for batch, rows in grid:
        step = _step_batch(runner, batch=batch, rows=rows, kv_blocks=kv_blocks, context=context)
        if time.perf_counter() > deadline:
            return
        _timed(runner, step)
        quiet: list[float] = []
        contended: list[float] = []
        while len(quiet) < SAMPLES and len(contended) < MOST_CONTENDED and time.perf_counter() < deadline:
            seconds, is_contended = _timed(runner, step)
            (contended if is_contended else quiet).append(seconds)
        if quiet or contended:
            yield StepCell(
                batch=batch,
                rows=rows,
                context=context_bucket(context),
                steps=len(quiet),
                seconds=statistics.median(quiet) * len(quiet) if quiet else min(contended),
                tokens=batch * len(quiet),
                contended=len(contended),
            )


def _stands_in(cell: StepCell) -> bool:
    """Is this cell the fastest of contended samples, for want of a quiet one?"""
    return cell.steps == 0


def _timed(runner: Runner, step: StepBatch) -> tuple[float, bool]:
    """Seconds of forward and the greedy draw, and whether the sample is contended."""
    begin = time.perf_counter()
    forward = timed_forward(runner, step)
    torch.argmax(forward.output.logits, dim=-1).tolist()
    return time.perf_counter() - begin, forward.is_contended


def _step_batch(runner: Runner, *, batch: int, rows: int, kv_blocks: int, context: int) -> StepBatch:
    """`rows` rows of `batch` sequences, the last at `context`. Sequences share blocks: only the time matters."""
    device = runner.final_norm_weight().device
    lengths = [rows // batch + (index < rows % batch) for index in range(batch)]
    longest = max(lengths)
    computed = max(0, min(context, runner.config.max_model_len, kv_blocks * BLOCK_SIZE) - longest)
    num_blocks = -(-(computed + longest) // BLOCK_SIZE)
    table = torch.arange(num_blocks, dtype=torch.int32, device=device)
    return StepBatch(
        token_ids=torch.ones(rows, dtype=torch.int64, device=device),
        positions=torch.tensor(
            [computed + i for length in lengths for i in range(length)], dtype=torch.int32, device=device
        ),
        row_sequences=torch.repeat_interleave(
            torch.arange(batch, dtype=torch.int32, device=device), torch.tensor(lengths, device=device)
        ),
        block_tables=table.expand(batch, num_blocks).contiguous(),
        logit_rows=torch.arange(rows, dtype=torch.int64, device=device),
    )


def _path(runner: Runner, model_digest: str) -> Path:
    key = json.dumps([runner.accelerator, model_digest, runner.dtype])
    return cache_directory() / "profile" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Profile | None:
    try:
        return Profile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("profile %s can't be read and is measured again: %s", path, error)
        return None


def _write(path: Path, profile: Profile) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(profile.model_dump_json())
        temporary.replace(path)
    except OSError as error:
        logger.warning("profile can't be kept in %s: %s", path, error)
