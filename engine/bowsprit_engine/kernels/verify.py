"""Verification in one launch (Triton): draw with the keyed noise, compare with the drafts, count, and the bonus.

Formula, per row r of a sequence that begins at row s:  token_r = argmax_v(logits[r, v] / temperature + gumbel(seed, v,
position + r - s)), without noise and scaling at temperature 0;  accepted = number of leading rows with token_r =
draft_r. The definition is `reference.verify`; filters are applied before, by `filters.filter_logits`.

Few rows: many programs share a row's vocabulary, so that all multiprocessors have some; the last of a row to arrive
takes the best of theirs, and the last row of a sequence to be drawn counts. The best of bests is the best, whoever
looked where: no bit depends on how many programs there were. Knows nothing of requests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels import filters, launch
from bowsprit_engine.kernels.launch import Build

MAX_PROGRAMS = 64  # of a row
WANTED_PROGRAMS = 264  # two for each multiprocessor of a large card


@triton.jit(do_not_specialize=["num_programs"])  # type: ignore[untyped-decorator]
def _verify_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # [rows, vocab] float32, rows `row_stride` apart
    row_stride,
    row_sequences_ptr,  # [rows] int32
    row_starts_ptr,  # [sequences + 1] int32
    drafts_ptr,  # [rows] int64
    temperature_ptr,  # [sequences] float32
    seeds_ptr,  # [sequences] int64
    positions_ptr,  # [sequences] int32
    row_arrivals_ptr,  # [rows] int32, zeros
    arrivals_ptr,  # [sequences] int32, zeros
    scores_ptr,  # [rows, MAX_PROGRAMS] float32
    tokens_ptr,  # [rows, MAX_PROGRAMS] int32
    drawn_ptr,  # [rows] int64, out
    accepted_ptr,  # [sequences] int32, out
    vocab_size,
    num_programs,  # of a row
    BLOCK: tl.constexpr,  # noqa: N803
    MAX_PROGRAMS: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    program = tl.program_id(1)
    sequence = tl.load(row_sequences_ptr + row)
    start = tl.load(row_starts_ptr + sequence)
    end = tl.load(row_starts_ptr + sequence + 1)
    temperature = tl.load(temperature_ptr + sequence)
    seed = tl.load(seeds_ptr + sequence)
    position = tl.load(positions_ptr + sequence) + row - start
    row_ptr = logits_ptr + tl.cast(row, tl.int64) * row_stride

    best_score = -float("inf")
    best_token = 0
    for begin in range(program * BLOCK, vocab_size, num_programs * BLOCK):
        tokens = begin + tl.arange(0, BLOCK)
        scores = tl.load(row_ptr + tokens, mask=tokens < vocab_size, other=-float("inf"))
        if temperature > 0.0:
            zeros = tokens * 0
            words, _, _, _ = tl.philox(seed, tokens, zeros + position, zeros, zeros)
            uniforms = ((words >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
            scores = scores / temperature - tl.log(-tl.log(uniforms))
        score, index = tl.max(scores, axis=0, return_indices=True, return_indices_tie_break_left=True)
        if score > best_score:
            best_score = score
            best_token = begin + index
    cell = row * MAX_PROGRAMS + program
    tl.store(scores_ptr + cell, best_score)
    tl.store(tokens_ptr + cell, best_token)
    is_drawn = tl.atomic_add(row_arrivals_ptr + row, 1, sem="acq_rel") == num_programs - 1
    if is_drawn:
        programs = tl.arange(0, MAX_PROGRAMS)
        is_one = programs < num_programs
        cells = row * MAX_PROGRAMS + programs
        scores = tl.load(scores_ptr + cells, mask=is_one, other=-float("inf"), cache_modifier=".cg")
        tokens = tl.load(tokens_ptr + cells, mask=is_one, other=vocab_size, cache_modifier=".cg")
        token = tl.min(tl.where(scores == tl.max(scores, axis=0), tokens, vocab_size), axis=0)
        tl.store(drawn_ptr + row, tl.cast(token, tl.int64))
        if tl.atomic_add(arrivals_ptr + sequence, 1, sem="acq_rel") == end - start - 1:
            accepted = 0
            is_matching = 1
            for other in range(start, end - 1):
                drawn = tl.load(drawn_ptr + other, volatile=True)
                draft = tl.load(drafts_ptr + other)
                is_matching = is_matching & (drawn == draft).to(tl.int32)
                accepted += is_matching
            tl.store(accepted_ptr + sequence, accepted)


def verify(
    logits: Tensor,  # [rows, vocab] float32; a sequence's rows are adjacent: its last token, then its drafts
    *,
    row_starts: Tensor,  # [sequences + 1] int32, first row of each sequence, then the number of rows
    drafts: Tensor,  # [rows] int64, the draft that follows each row; unused in a sequence's last row
    temperature: Tensor,  # [sequences] float32
    seeds: Tensor,  # [sequences] int64
    positions: Tensor,  # [sequences] int32, of the token drawn from the sequence's first row
) -> tuple[Tensor, Tensor]:  # [rows] int64 drawn tokens, [sequences] int32 accepted drafts
    """`reference.verify` on the device of `logits`, in one launch; logits are copied if their rows are strided."""
    if logits.dtype != torch.float32 or logits.ndim != 2:
        raise ValueError(f"logits are {logits.dtype} {tuple(logits.shape)}, [rows, vocab] float32 is needed")
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    num_rows, vocab_size = logits.shape
    num_sequences = temperature.numel()
    device = logits.device
    counts = (row_starts[1:] - row_starts[:-1]).to(torch.int64)
    row_sequences = torch.repeat_interleave(
        torch.arange(num_sequences, dtype=torch.int32, device=device), counts, output_size=num_rows
    )
    first_sequence = triton.cdiv(num_rows, 16) * 16  # an aligned address, else another kernel would be compiled
    arrivals = torch.zeros(first_sequence + num_sequences, dtype=torch.int32, device=device)
    num_programs = min(triton.cdiv(vocab_size, launch.VERIFY.block), max(1, WANTED_PROGRAMS // num_rows), MAX_PROGRAMS)
    scores = torch.empty((num_rows, MAX_PROGRAMS), dtype=torch.float32, device=device)
    drawn = torch.empty(num_rows, dtype=torch.int64, device=device)
    accepted = torch.empty(num_sequences, dtype=torch.int32, device=device)
    _verify_kernel[(num_rows, num_programs)](
        logits,
        logits.stride(0),
        row_sequences,
        row_starts,
        drafts,
        temperature,
        seeds,
        positions,
        arrivals,
        arrivals[first_sequence:],
        scores,
        torch.empty_like(scores, dtype=torch.int32),
        drawn,
        accepted,
        vocab_size,
        num_programs,
        BLOCK=launch.VERIFY.block,
        MAX_PROGRAMS=MAX_PROGRAMS,
        num_warps=launch.VERIFY.num_warps,
    )
    return drawn, accepted


def draw(
    logits: Tensor,  # [rows, vocab] float32
    temperature: Tensor,  # [rows] float32
    top_k: Tensor,  # [rows] int32
    top_p: Tensor,  # [rows] float32
    min_p: Tensor,  # [rows] float32
    seeds: Tensor,  # [rows] int64
    positions: Tensor,  # [rows] int64
) -> Tensor:  # [rows] int64
    """`reference.draw` by the same kernel, every row a sequence of its own; filters first, where a row has any.

    Parameters may live on the host, and should: whether there is a filter is then known without waiting for the device.
    """
    num_rows, device = logits.shape[0], logits.device
    if num_rows == 0:  # a step of prompts only
        return torch.empty(0, dtype=torch.int64, device=device)
    is_filtered = bool(((temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0))).any())
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        if is_filtered:
            parameters = (part.to(device, non_blocking=True) for part in (temperature, top_k, top_p, min_p))
            logits = filters.filter_logits(logits, *parameters)
        drawn, _ = verify(
            logits,
            row_starts=torch.arange(num_rows + 1, dtype=torch.int32, device=device),
            drafts=torch.zeros(num_rows, dtype=torch.int64, device=device),
            temperature=temperature.to(device),
            seeds=seeds.to(device),
            positions=positions.to(device, torch.int32),
        )
    return drawn


BUILDS = (
    Build(
        name="verify",
        kernel=_verify_kernel,
        arguments={
            "logits_ptr": "*fp32:16",
            "row_stride": "i32:16",
            "row_sequences_ptr": "*i32:16",
            "row_starts_ptr": "*i32:16",
            "drafts_ptr": "*i64:16",
            "temperature_ptr": "*fp32:16",
            "seeds_ptr": "*i64:16",
            "positions_ptr": "*i32:16",
            "row_arrivals_ptr": "*i32:16",
            "arrivals_ptr": "*i32:16",
            "scores_ptr": "*fp32:16",
            "tokens_ptr": "*i32:16",
            "drawn_ptr": "*i64:16",
            "accepted_ptr": "*i32:16",
            "vocab_size": "i32:16",
            "num_programs": "i32",
        },
        constants={"BLOCK": launch.VERIFY.block, "MAX_PROGRAMS": MAX_PROGRAMS},
        num_warps=launch.VERIFY.num_warps,
    ),
)
