"""Does the trained head draft on this device what its own arithmetic says? Of random weights; knows no speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.gpu.records import Check
from bench.gpu.scale import Scale
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.triton_runner import TritonRunner
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows

SEQUENCES = 32
DRAFT_TOKENS = 4


def run(scale: Scale, device: torch.device) -> Iterator[Check]:
    """First tokens against the definition; then drafts with noise, each a draft token with a probability."""
    config = dataclasses.replace(scale.config, num_layers=0)
    checkpoint = RandomCheckpoint(Path("random"), config, device=device)
    runner = TritonRunner(checkpoint, dtype=scale.dtype, device=device)
    draft_ids = torch.arange(0, config.vocab_size, max(1, config.vocab_size // 2048))
    target = TargetRows(
        draft_token_ids=draft_ids, lm_head=runner.lm_head_rows(draft_ids), final_norm=runner.final_norm_weight()
    )
    torch.manual_seed(0)
    shape = HeadShape(hidden_size=config.hidden_size, intermediate_size=512, rms_norm_eps=config.rms_norm_eps)
    module = RecurrentHead(shape, target)
    serving = serving_head(module, draft_ids, runner, revision="random")
    hidden = torch.randn(SEQUENCES, config.hidden_size, device=device)
    last = torch.arange(SEQUENCES, device=device) * 7 % config.vocab_size

    def drafted(temperature: float) -> tuple[Tensor, Tensor]:
        contexts = [
            DraftContext(
                request_id=str(index),
                token_ids=(token,),
                hidden=hidden[index],
                max_draft_tokens=DRAFT_TOKENS,
                seed=index,
                temperature=temperature,
            )
            for index, token in enumerate(last.tolist())
        ]
        drafts = serving.draft(contexts)
        return (
            torch.tensor([draft.token_ids for draft in drafts], device=device),
            torch.tensor([draft.confidences for draft in drafts], device=device),
        )

    with torch.inference_mode():
        definition = module.to(device)
        state = definition.advance(definition.start(hidden), definition.token_part(runner.embed(last)))
        expected = draft_ids.to(device)[definition.logits(state).argmax(dim=-1)]
    differing = float((drafted(0.0)[0][:, 0] != expected).sum())
    # in bfloat16 two tokens that are nearly equal may change places
    limit = 0 if scale.dtype == torch.float32 else SEQUENCES // 8
    yield Check(name="head (first tokens that differ)", error=differing, limit=limit)
    tokens, sure = drafted(0.8)
    outside = (~torch.isin(tokens, draft_ids.to(device)) | (sure < 0) | (sure > 1)).sum()
    yield Check(name="head with noise (tokens that can't be)", error=float(outside), limit=0)
