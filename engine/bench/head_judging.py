"""What a trained design would have got on held-out answers: matches per position, tokens per step, also with look-up.

Drafts are taken at every row with emitted tokens fed (head_batch.py says why that is exact); at temperature > 0 they
are drawn with the answer's own noise, as the head that serves does. With look-up they are replayed through the pool and
the windows that serve (drafter_tournament.py), beside n-gram and suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.head_batch import HeadBatch, batch_of
from bench.head_states import Document
from bench.head_training import DraftDesign
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.head_in_torch import NOISY_CANDIDATES
from bowsprit_engine.speculation.drafters.keyed_noise import gumbel_of
from bowsprit_engine.training.evaluate import PreparedHead

DOCUMENTS_PER_BATCH = 8
DraftSeconds = Callable[[int, int], float]  # (sequences, tokens) -> seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A document's drafts, a row per decode position. `matching`: leading tokens that equal what was emitted."""

    index: int
    num_prompt: int
    token_ids: Tensor  # [rows, K] int64
    sure: Tensor  # [rows, K] float32, the winner's share
    matching: Tensor  # [rows] int64
    possible: Tensor  # [rows] int64, tokens that were emitted from there on, at most K


@torch.inference_mode()
def draft_all(
    design: DraftDesign,
    documents: Sequence[Document],
    draft_token_ids: Tensor,  # [V]
    *,
    num_positions: int,
    temperature: float,
) -> list[Drafted]:
    """In the order of documents."""
    found: dict[int, Drafted] = {}
    by_length = sorted(documents, key=lambda document: len(document.tokens))
    for begin in range(0, len(by_length), DOCUMENTS_PER_BATCH):
        some = by_length[begin : begin + DOCUMENTS_PER_BATCH]
        for document, drafted in zip(
            some, _drafted(design, some, draft_token_ids, num_positions, temperature), strict=True
        ):
            found[document.index] = drafted
    return [found[document.index] for document in documents]


def _drafted(
    design: DraftDesign, documents: Sequence[Document], draft_token_ids: Tensor, num_positions: int, temperature: float
) -> list[Drafted]:
    batch = batch_of(documents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = design.states(batch, num_positions)
    seeds = torch.tensor([document.index for document in documents])[:, None].expand_as(batch.anchors)
    tokens, sure, hits, possible = [], [], [], []
    for position, state in enumerate(states):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = design.logits(state).float()  # [B, R, V]
        places = batch.anchors + 2 + position
        drawn, share = drawn_of(logits, draft_token_ids, seeds, places, temperature)
        truth = batch.tokens.gather(1, batch.drafted_places(position))
        tokens.append(drawn)
        sure.append(share)
        hits.append((drawn == truth) & batch.is_drafted(position))
        possible.append(batch.is_drafted(position))
    matching = torch.stack(hits, dim=-1).long().cumprod(dim=-1).sum(-1)
    return _by_document(documents, batch, torch.stack(tokens, -1), torch.stack(sure, -1), matching,
                        torch.stack(possible, -1).sum(-1))  # fmt: skip


def _by_document(
    documents: Sequence[Document], batch: HeadBatch, tokens: Tensor, sure: Tensor, matching: Tensor, possible: Tensor
) -> list[Drafted]:
    found = []
    for number, document in enumerate(documents):
        rows = batch.is_anchor[number]
        found.append(
            Drafted(
                index=document.index,
                num_prompt=document.num_prompt,
                token_ids=tokens[number][rows],
                sure=sure[number][rows],
                matching=matching[number][rows],
                possible=possible[number][rows],
            )
        )
    return found


def drawn_of(
    logits: Tensor,  # [B, R, V]
    draft_token_ids: Tensor,  # [V]
    seeds: Tensor,  # [B, R]
    places: Tensor,  # [B, R] of the drafted tokens
    temperature: float,
) -> tuple[Tensor, Tensor]:  # [B, R] target ids, [B, R] the winner's share
    """As `head_in_torch.py` draws: the likeliest at temperature 0, else among 64 with the place's own noise."""
    if temperature == 0:
        return draft_token_ids[logits.argmax(dim=-1)], logits.softmax(dim=-1).amax(dim=-1)
    values, candidates = logits.flatten(0, 1).topk(min(NOISY_CANDIDATES, logits.shape[-1]), dim=-1)
    ids = draft_token_ids[candidates]
    noise = gumbel_of(seeds=seeds.flatten().tolist(), positions=places.flatten().tolist(), token_ids=ids.numpy())
    scores = values / temperature + torch.from_numpy(noise)
    drawn = ids.gather(1, scores.argmax(dim=-1, keepdim=True))[:, 0]
    return drawn.view(seeds.shape), (scores * temperature).softmax(dim=-1).amax(dim=-1).view(seeds.shape)


def matched_per_position(drafted: Sequence[Drafted], num_positions: int) -> list[float]:
    """matched at j / reached j, over all rows where the answer went on as far."""
    matching = torch.cat([each.matching for each in drafted])
    possible = torch.cat([each.possible for each in drafted])
    rates = []
    for position in range(num_positions):
        reached = (matching >= position) & (possible > position)
        rates.append(((matching > position) & reached).sum().item() / max(1, int(reached.sum())))
    return rates


def steps_of(matching: Sequence[int], num_draft: int) -> int:
    """Decode steps of an answer whose drafts are cut to `num_draft`."""
    position, steps = 0, 0
    while position < len(matching):
        position += min(matching[position], num_draft) + 1
        steps += 1
    return steps


def acceptance_length(drafted: Sequence[Drafted], num_draft: int) -> float:
    """Tokens per step of the head alone."""
    tokens = sum(len(each.matching) for each in drafted)
    return tokens / sum(steps_of(each.matching.tolist(), num_draft) for each in drafted)


def gain(
    first: Sequence[Drafted], second: Sequence[Drafted], num_draft: int, *, samples: int = 2000
) -> tuple[float, float, float]:
    """E of the second over E of the first, less 1, with its 95 % interval over answers (the same for both)."""
    steps = np.array(
        [[steps_of(each.matching.tolist(), num_draft) for each in drafted] for drafted in (first, second)],
        dtype=np.float64,
    )
    drawn = np.random.default_rng(0).integers(steps.shape[1], size=(samples, steps.shape[1]))
    before, after = steps[:, drawn].sum(axis=2)
    low, high = np.percentile(before / after - 1, (2.5, 97.5))
    return float(steps[0].sum() / steps[1].sum() - 1), float(low), float(high)


class PricedHead(PreparedHead):
    """What a design drafted at each row of the recorded answers, and what drafting it would have cost.

    `stated_seconds`: of all drafts so far, for a pool whose clock adds them to what it measures.
    """

    def __init__(self, drafted: Sequence[Drafted], *, seconds: DraftSeconds) -> None:
        """`seconds`: of a draft of so many tokens for so many sequences."""
        super().__init__("head", {f"{each.index}": drafts_of(each) for each in drafted})
        self.stated_seconds = 0.0
        self._seconds = seconds

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """As prepared; all are drafted to the longest of their limits."""
        self.stated_seconds += self._seconds(len(contexts), max(context.max_draft_tokens for context in contexts))
        return super().propose(contexts)


def drafts_of(drafted: Drafted) -> list[Draft]:
    """One per row."""
    return [
        Draft(token_ids=tuple(tokens), confidences=tuple(sure))
        for tokens, sure in zip(drafted.token_ids.tolist(), drafted.sure.tolist(), strict=True)
    ]
