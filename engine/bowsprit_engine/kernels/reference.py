"""The definition, in plain torch, of the keyed draw and of verification; every kernel is tested against it.

Decides what the token at a position is, given its logits, the request's seed and the position. Knows nothing of
requests or batches. Each row is computed by itself, on a [vocab] vector, so a row's token depends on no other row.

Words: `position` is the absolute index in the sequence (prompt included) of the token being drawn; `draft` is a
proposed token; a row's `mass above` a token is the probability of all tokens strictly more likely than it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

PHILOX_ROUND_A = 0xD2511F53
PHILOX_ROUND_B = 0xCD9E8D57
PHILOX_KEY_A = 0x9E3779B9
PHILOX_KEY_B = 0xBB67AE85
PHILOX_ROUNDS = 10
MASK_32 = 0xFFFFFFFF


def philox(
    *,
    seeds: Tensor,  # int64, the seed's 64 bits; key = (low 32, high 32)
    counter_0: Tensor,  # int64, each in [0, 2^32)
    counter_1: Tensor,  # int64, each in [0, 2^32)
) -> Tensor:  # int64 of their broadcast shape, the first output word, in [0, 2^32)
    """Philox4x32-10 of the counters (counter_0, counter_1, 0, 0) (Salmon et al., "Parallel random numbers", SC 2011).

    A 32 x 32 bit product overflows int64's sign bit; it wraps, and the masks below read the right bits from it.
    """
    key_a, key_b = seeds & MASK_32, (seeds >> 32) & MASK_32
    c0, c1 = counter_0, counter_1
    c2 = c3 = torch.zeros_like(seeds)
    for _ in range(PHILOX_ROUNDS):
        product_a = c0 * PHILOX_ROUND_A
        product_b = c2 * PHILOX_ROUND_B
        c0 = ((product_b >> 32) & MASK_32) ^ c1 ^ key_a
        c2 = ((product_a >> 32) & MASK_32) ^ c3 ^ key_b
        c1 = product_b & MASK_32
        c3 = product_a & MASK_32
        key_a = (key_a + PHILOX_KEY_A) & MASK_32
        key_b = (key_b + PHILOX_KEY_B) & MASK_32
    return c0


def uniform(
    words: Tensor,  # int64 in [0, 2^32)
) -> Tensor:  # float32, strictly inside (0, 1)
    """((word >> 9) + 0.5) * 2^-23.

    23 bits, not 24: with 24 the half no longer fits float32, (2^24 - 1) + 0.5 rounds up, u becomes 1, its Gumbel noise
    infinite, and one row in 350 of a 49k vocabulary emits a token drawn regardless of its logit.
    """
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


def gumbel(
    words: Tensor,  # int64 in [0, 2^32)
) -> Tensor:  # float32, finite
    """-log(-log(u))."""
    return -torch.log(-torch.log(uniform(words)))


def noise(
    *,
    seed: int,
    position: int,
    vocab_size: int,
    device: torch.device | None = None,
) -> Tensor:  # [vocab] float32
    """Gumbel noise of every token at one position of one request, keyed by (seed, token id, position)."""
    token_ids = torch.arange(vocab_size, dtype=torch.int64, device=device)
    seeds = torch.tensor(as_int64(seed), dtype=torch.int64, device=device)
    positions = torch.tensor(position & MASK_32, dtype=torch.int64, device=device)
    return gumbel(philox(seeds=seeds, counter_0=token_ids, counter_1=positions))


def as_int64(seed: int) -> int:
    """The low 64 bits of any integer, as a signed one: what a tensor of seeds holds."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >= 1 << 63 else low


def filtered(
    scaled: Tensor,  # [vocab] float32, logits / temperature
    *,
    top_k: int,  # 0: off
    top_p: float,  # 1: off
    min_p: float,  # 0: off
) -> Tensor:  # [vocab] float32, -inf where filtered out
    """top_k, then top_p over what is left, then min_p. Tokens that tie with the last one kept are kept.

    top_k keeps values >= the k-th largest. top_p keeps a token iff the mass above it (of the tokens that top_k kept,
    renormalised) is < top_p. min_p keeps a token iff its probability is >= min_p times the highest. The most likely
    token is always kept.
    """
    kept = scaled
    if 0 < top_k < kept.numel():
        threshold = torch.topk(kept, top_k).values[-1]
        kept = kept.masked_fill(kept < threshold, -torch.inf)
    if top_p < 1.0:
        values, _ = torch.sort(kept, descending=True)
        probs = torch.softmax(values, dim=0)
        ends_of_equals = torch.searchsorted(-values, -values, right=False)  # index of the first token of equal value
        mass_above = torch.cumsum(probs, dim=0)[ends_of_equals] - probs
        inside = mass_above < top_p
        inside[0] = True
        kept = kept.masked_fill(kept < values[inside].min(), -torch.inf)
    if min_p > 0.0:
        highest = kept.max()
        kept = kept.masked_fill(kept < highest + torch.log(torch.tensor(min_p, dtype=torch.float32)), -torch.inf)
    return kept


def draw_row(
    logits: Tensor,  # [vocab] float32, after penalties, bias and masks
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> int:
    """The token at `position`: argmax of filtered logits / temperature plus keyed noise; greedy at temperature 0.

    Adding noise to unnormalised logits or to log-probabilities gives the same argmax. The lowest id wins a tie.
    """
    if temperature == 0.0:
        return int(torch.argmax(logits))
    kept = filtered(logits / temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    gumbels = noise(seed=seed, position=position, vocab_size=logits.numel(), device=logits.device)
    return int(torch.argmax(kept + gumbels))


def draw(
    logits: Tensor,  # [rows, vocab] float32
    temperature: Tensor,  # [rows] float32
    top_k: Tensor,  # [rows] int32
    top_p: Tensor,  # [rows] float32
    min_p: Tensor,  # [rows] float32
    seeds: Tensor,  # [rows] int64, the seed's 64 bits
    positions: Tensor,  # [rows] int64, of the token being drawn
) -> Tensor:  # [rows] int64
    """`draw_row` for every row."""
    if not torch.any(temperature):
        return torch.argmax(logits, dim=-1)
    tokens = [
        draw_row(row, temperature=t, top_k=k, top_p=p, min_p=m, seed=s, position=pos)
        for row, t, k, p, m, s, pos in zip(
            logits,
            temperature.tolist(),
            top_k.tolist(),
            top_p.tolist(),
            min_p.tolist(),
            seeds.tolist(),
            positions.tolist(),
            strict=True,
        )
    ]
    return torch.tensor(tokens, dtype=torch.int64)


def verify(
    logits: Tensor,  # [rows, vocab] float32; a sequence's rows are adjacent: its last token, then its drafts
    *,
    row_starts: Tensor,  # [sequences + 1] int32, first row of each sequence, then the number of rows
    drafts: Tensor,  # [rows] int64, the draft that follows each row; unused in a sequence's last row
    temperature: Tensor,  # [sequences] float32
    seeds: Tensor,  # [sequences] int64
    positions: Tensor,  # [sequences] int32, of the token drawn from the sequence's first row
) -> tuple[Tensor, Tensor]:  # [rows] int64 drawn tokens, [sequences] int32 accepted drafts
    """Draw every row without filters and count the leading drafts that equal what was drawn.

    A sequence emits its first `accepted + 1` drawn tokens: the accepted drafts, then the bonus.
    """
    drawn: list[int] = []
    accepted: list[int] = []
    starts = row_starts.tolist()
    for index, (start, end) in enumerate(pairwise(starts)):
        tokens = [
            draw_row(
                logits[row],
                temperature=float(temperature[index]),
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                seed=int(seeds[index]),
                position=int(positions[index]) + row - start,
            )
            for row in range(start, end)
        ]
        num_matching = 0
        for token, draft in zip(tokens[:-1], drafts[start : end - 1].tolist(), strict=True):
            if token != draft:
                break
            num_matching += 1
        drawn.extend(tokens)
        accepted.append(num_matching)
    return torch.tensor(drawn, dtype=torch.int64), torch.tensor(accepted, dtype=torch.int32)
