"""A small model of the target's vocabulary as a drafter: tokens one after another, all sequences in one pass.

Decides how a draft is drawn: with the target's noise of (seed, position) at the request's temperature, so that two
models that agree on the distribution agree on the token (Daliri et al., "Coupling without Communication"). Its cache is
small_model_kv.py's subject, its arithmetic a runner's. Refuses to know when drafting pays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bowsprit_engine.core.draw_params import draw_tensors
from bowsprit_engine.core.runner import Runner, StepBatch
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.small_model_kv import CatchUp, DraftKv
from bowsprit_policy.wire import DrafterState, DrafterType

logger = logging.getLogger(__name__)

Draw = Callable[..., Tensor]  # the signature of kernels.reference.draw


@dataclass(slots=True, kw_only=True, eq=False)
class _Drafting:
    """One sequence while its draft is made."""

    context: DraftContext
    caught_up: CatchUp
    token_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Of the token that is drafted next."""
        return len(self.context.token_ids) + len(self.context.ahead) + len(self.token_ids)

    @property
    def is_complete(self) -> bool:
        return len(self.token_ids) == self.caught_up.num_drafts


class SmallModelDrafter:
    """A runner with a cache of its own. A sequence that lags more than a chunk is brought up to date over several
    steps, and drafted after that; one without room isn't drafted. Logits that are not finite end a sequence's drafts.
    """

    type = DrafterType.MODEL
    revision: str | None = None

    def __init__(
        self,
        *,
        name: str,
        runner: Runner,
        num_blocks: int,
        target_vocab_size: int,
        chunk_tokens: int,  # most rows with which a step brings sequences up to date
        draw: Draw,
    ) -> None:
        self.name = name
        self.num_not_finite = 0
        self._runner = runner
        self._vocab_size = min(target_vocab_size, runner.config.vocab_size)  # one may be padded farther than the other
        self._draw = draw
        self._device = runner.final_norm_weight().device
        self.kv = DraftKv(
            num_blocks=num_blocks,
            max_model_len=runner.config.max_model_len,
            vocab_size=runner.config.vocab_size,
            chunk_tokens=chunk_tokens,
        )
        runner.allocate_kv(num_blocks)
        self.state, self.reason = self._selftest()

    @property
    def kv_lag_tokens(self) -> int:
        """Tokens of live sequences that the target has computed and this model hasn't. Any thread may ask."""
        return self.kv.lag_tokens

    def learn(self, context: DraftContext) -> None:
        """Nothing is computed: what is missing is caught up with when the sequence is drafted again."""
        self.kv.learn(context.request_id, context.token_ids)

    def forget(self, request_id: str) -> None:
        """Its blocks come back at once."""
        self.kv.forget(request_id)

    @torch.inference_mode()
    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty for sequences that are still catching up or have no room."""
        drafts = [Draft(token_ids=())] * len(contexts)
        plan = self.kv.plan(contexts)
        if not plan:
            return drafts
        logits = self._catch_up(plan)
        asked = [_Drafting(context=contexts[rows.index], caught_up=rows) for rows in plan if rows.num_drafts]
        drafting = asked
        while drafting := self._append(drafting, logits):
            logits = self._advance(drafting)
        for one in asked:
            draft = Draft(token_ids=tuple(one.token_ids), confidences=tuple(one.confidences))
            drafts[one.caught_up.index] = draft
        return drafts

    def _catch_up(self, plan: Sequence[CatchUp]) -> Tensor:  # [sequences that are drafted, vocab]
        ends, num_rows = [], 0
        for rows in plan:
            num_rows += len(rows.token_ids)
            if rows.num_drafts:
                ends.append(num_rows - 1)
        logits = self._forward(
            [(rows.token_ids, len(rows.sequence.computed), rows.sequence.block_ids) for rows in plan], ends
        )
        for rows in plan:
            rows.sequence.computed += rows.token_ids
        return logits

    def _append(self, drafting: Sequence[_Drafting], logits: Tensor) -> list[_Drafting]:
        """Draw each sequence's next token; those that want another one."""
        logits = logits[:, : self._vocab_size].contiguous()
        finite = torch.isfinite(logits.sum(dim=-1)).tolist()
        if not all(finite):
            logits = logits.nan_to_num(0.0)  # so that every row has a token; those of bad rows aren't used
        # what the target draws with; penalties, bias and masks are left to verification
        arguments = draw_tensors([one.context for one in drafting], [one.position for one in drafting])
        token_ids = self._draw(logits, *arguments).tolist()
        confidences = _probabilities(logits, token_ids, [one.context.temperature for one in drafting])
        going_on = []
        for one, is_finite, token, confidence in zip(drafting, finite, token_ids, confidences, strict=True):
            if not is_finite:
                self.num_not_finite += 1
                logger.warning("drafter %s: logits of %s are not finite", self.name, one.context.request_id)
                self.kv.fail(one.caught_up.sequence)
                one.token_ids.clear()
                one.confidences.clear()
                continue
            one.token_ids.append(token)
            one.confidences.append(confidence)
            if not one.is_complete:
                going_on.append(one)
        return going_on

    def _advance(self, drafting: Sequence[_Drafting]) -> Tensor:  # [drafting, vocab]
        """Run each sequence's last drafted token."""
        rows = [(one.token_ids[-1:], one.position - 1, one.caught_up.sequence.block_ids) for one in drafting]
        logits = self._forward(rows, range(len(rows)))
        for one in drafting:
            one.caught_up.sequence.computed.append(one.token_ids[-1])
        return logits

    def _forward(
        self,
        sequences: Sequence[tuple[Sequence[int], int, Sequence[int]]],  # tokens, position of the first, blocks
        logit_rows: Sequence[int],
    ) -> Tensor:  # [logit_rows, vocab]
        widest = max(len(blocks) for _, _, blocks in sequences)
        batch = StepBatch(
            token_ids=self._integers([token for tokens, _, _ in sequences for token in tokens], torch.int64),
            positions=self._integers(
                [first + index for tokens, first, _ in sequences for index in range(len(tokens))], torch.int32
            ),
            row_sequences=self._integers(
                [index for index, (tokens, _, _) in enumerate(sequences) for _ in tokens], torch.int32
            ),
            block_tables=self._integers(
                [[*blocks, *[0] * (widest - len(blocks))] for _, _, blocks in sequences], torch.int32
            ),
            logit_rows=self._integers(list(logit_rows), torch.int64),
        )
        return self._runner.forward(batch).logits

    def _integers(self, values: Sequence[int] | Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)

    @torch.inference_mode()
    def _selftest(self) -> tuple[DrafterState, str]:
        """One row. Whether it predicts this target is for live acceptance to say."""
        if bool(torch.isfinite(self._forward([((0,), 0, (0,))], (0,))).all()):
            return DrafterState.ACTIVE, ""
        return DrafterState.BROKEN, "self-test: the draft model's logits are not finite"


class UnusableDrafter:
    """A draft model that could not be loaded: Broken with the reason from the start, so that serving goes on."""

    type = DrafterType.MODEL
    state = DrafterState.BROKEN
    revision: str | None = None

    def __init__(self, *, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [Draft(token_ids=())] * len(contexts)

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""


def _probabilities(
    logits: Tensor,  # [n, vocab] float32
    token_ids: Sequence[int],
    temperatures: Sequence[float],
) -> list[float]:
    """What the model itself gives each drawn token; at temperature 1 where the request is greedy."""
    scale = torch.tensor([temperature or 1.0 for temperature in temperatures], device=logits.device)
    scaled = logits / scale[:, None]
    chosen = scaled.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0]
    probabilities: list[float] = (chosen - scaled.logsumexp(dim=-1)).exp().tolist()
    return probabilities
