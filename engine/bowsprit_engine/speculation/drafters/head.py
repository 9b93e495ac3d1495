"""The trained head as a drafter: a few small matrix products per drafted token, batched over sequences.

Decides how a head's weights are laid out for serving, how a draft is drawn, and whether a loaded head works at all.
Refuses to know training, and when drafting pays. The head keeps nothing per sequence: each proposal starts from the
target's own state, so K = 0, preemption and prefix reuse can't leave it stale.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from bowsprit_engine.core.runner import Runner
from bowsprit_engine.errors import SpeculatorError, WorldError
from bowsprit_engine.kernels import native
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.keyed_noise import gumbel_of
from bowsprit_engine.training import artifact
from bowsprit_engine.training.head import RecurrentHead, TargetRows, norm
from bowsprit_policy.wire import DrafterState, DrafterType

logger = logging.getLogger(__name__)

NOISY_CANDIDATES = 64  # at temperature > 0 the most likely draft tokens compete; the rest hold next to no probability
SELFTEST_SHARE = 0.5  # of the accuracy that the head had when it was made
CHANCE_FACTOR = 10.0

Linear = Callable[[Tensor], Tensor]


@runtime_checkable
class Multiplies(Protocol):
    """A runner whose own kernels multiply with any weight: the head runs by them, beside its target."""

    def linear(self, weight: Tensor) -> Linear: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingHead:
    """Weights in serving form: learned scales folded into the matrices, the tokens' part a table."""

    revision: str
    eps: float
    draft_token_ids: Tensor  # [V] int64
    draft_index: Tensor  # [target vocabulary] int64, -1 outside the draft vocabulary
    token_table: Tensor  # [V, 2W]
    token_up: Linear  # [n, D] -> [n, 2W]
    state_up: Linear  # [n, D] -> [n, 2W]
    down: Linear  # [n, W] -> [n, D]
    lm_head: Linear  # [n, D] -> [n, V]
    confidence_temperature: float = 1.0  # logits are divided by it before they tell how sure a draft is


def linear(
    weight: Tensor,  # [N, K] float32
) -> Linear:
    """x @ weight.T: on the CPU by the native kernels (bf16 weights, a third of torch's time) where they are built."""
    if weight.device.type == "cpu" and _has_native():
        return native.PackedLinear(weight)
    return partial(functional.linear, weight=weight.contiguous())


@cache
def _has_native() -> bool:
    try:
        native.library()
    except WorldError as error:
        logger.info("the head drafts with torch's operators: %s", error)
        return False
    return True


def serving_head(
    head: RecurrentHead,
    draft_token_ids: Tensor,
    runner: Runner,
    *,
    revision: str,
    confidence_temperature: float = 1.0,
) -> ServingHead:
    """Fold, pack and tabulate, on the target's device."""
    make = runner.linear if isinstance(runner, Multiplies) else linear
    device = runner.final_norm_weight().device
    head, draft_token_ids = head.to(device), draft_token_ids.to(device)
    with torch.no_grad():
        draft_index = torch.full((runner.config.vocab_size,), -1, dtype=torch.int64, device=device)
        draft_index[draft_token_ids] = torch.arange(draft_token_ids.numel(), device=device)
        return ServingHead(
            revision=revision,
            eps=head.shape.rms_norm_eps,
            draft_token_ids=draft_token_ids,
            draft_index=draft_index,
            token_table=head.token_part(runner.embed(draft_token_ids)).detach(),
            token_up=make(head.token_up.detach() * head.token_scale.detach()),
            state_up=make(head.state_up.detach() * head.state_scale.detach()),
            down=make(head.down.detach()),
            lm_head=make(head.lm_head * head.output_scale.detach()),
            confidence_temperature=confidence_temperature,
        )


class HeadDrafter:
    """Starts Empty; `load` (any thread) and `swap_in` (the engine's thread) give it a revision."""

    type = DrafterType.HEAD

    def __init__(self, *, name: str, runner: Runner) -> None:
        self.name = name
        self.state = DrafterState.EMPTY
        self.reason = "no revision loaded"
        self.revision: str | None = None
        self._runner = runner
        self._head: ServingHead | None = None

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty without a revision, and where the target's state isn't known."""
        return self._drafts(self._head, contexts)

    def propose_by(self, loaded: object, contexts: Sequence[DraftContext]) -> list[Draft]:
        """What `propose` would say with a head of `load_beside` in use."""
        return self._drafts(cast("ServingHead", loaded), contexts)

    def _drafts(self, head: ServingHead | None, contexts: Sequence[DraftContext]) -> list[Draft]:
        drafts = [Draft(token_ids=())] * len(contexts)
        known = [index for index, context in enumerate(contexts) if context.hidden is not None]
        if head is None or not known:
            return drafts
        asked = [contexts[index] for index in known]
        tokens, sure = draft_tokens(head, asked, embed=self._runner.embed)
        for index, context, token_ids, confidences in zip(known, asked, tokens.tolist(), sure.tolist(), strict=True):
            cap = context.max_draft_tokens
            drafts[index] = Draft(token_ids=tuple(token_ids[:cap]), confidences=tuple(confidences[:cap]))
        return drafts

    def forget(self, request_id: str) -> None:
        """Nothing is kept per sequence."""

    def load(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """Build and self-test the folder's head. Raises SpeculatorError: what is in use stays, else it is Broken."""
        try:
            return self.load_beside(folder, sha256, revision, model_digest)
        except SpeculatorError as error:
            if self._head is None:
                self.state, self.reason = DrafterState.BROKEN, str(error)
            raise

    def load_beside(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """As `load`, but whether it can be used says nothing of the drafter's own state."""
        stored = self._read(folder, sha256, model_digest)
        loaded = self._build(stored, revision)
        check_selftest(loaded, stored, folder, embed=self._runner.embed)
        return loaded

    def load_unproven(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """Without the self-test, to be measured and not to serve: a head that learned nothing has figures too."""
        return self._build(self._read(folder, sha256, model_digest), revision)

    def swap_in(self, loaded: object) -> None:
        """Draft with what `load` returned from the next proposal on."""
        head = cast("ServingHead", loaded)
        self._head, self.revision = head, head.revision
        self.state, self.reason = DrafterState.ACTIVE, ""

    def unload(self) -> None:
        self._head, self.revision = None, None
        self.state, self.reason = DrafterState.EMPTY, "no revision loaded"

    def _read(self, folder: Path, sha256: str | None, model_digest: str) -> artifact.StoredHead:
        return artifact.read(
            folder,
            sha256=sha256,
            model_digest=model_digest,
            vocab_size=self._runner.config.vocab_size,
            hidden_size=self._runner.config.hidden_size,
        )

    def _build(self, stored: artifact.StoredHead, revision: str) -> ServingHead:
        target = TargetRows(
            draft_token_ids=stored.draft_token_ids,
            lm_head=self._runner.lm_head_rows(stored.draft_token_ids),
            final_norm=self._runner.final_norm_weight(),
        )
        return serving_head(
            artifact.build(stored, target),
            stored.draft_token_ids,
            self._runner,
            revision=revision,
            confidence_temperature=stored.config.confidence_temperature,
        )


@torch.inference_mode()
def draft_tokens(
    head: ServingHead, contexts: Sequence[DraftContext], *, embed: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:  # [n, L] int64 target ids; [n, L] probability of each to match, given all before it do
    """As many tokens per context as the longest wanted draft, L. Every context has `hidden`."""
    device = head.token_table.device
    last_tokens = torch.tensor([context.token_ids[-1] for context in contexts], device=device)
    hidden = torch.stack([cast("Tensor", context.hidden) for context in contexts]).to(device)
    state = norm(hidden, head.eps)
    token_part = _token_part(head, last_tokens, embed)
    steps: list[Tensor] = []
    sure: list[Tensor] = []
    for step in range(max(context.max_draft_tokens for context in contexts)):
        gate, up = (head.state_up(norm(state, head.eps)) + token_part).chunk(2, dim=-1)
        state = state + head.down(functional.silu(gate) * up)
        drawn, confidence = _draw(head, head.lm_head(norm(state, head.eps)), contexts, step)
        steps.append(head.draft_token_ids[drawn])
        sure.append(confidence)
        token_part = head.token_table[drawn]
    return torch.stack(steps, dim=1), torch.stack(sure, dim=1)


def accuracy(head: ServingHead, selftest: artifact.SelfTest, *, embed: Callable[[Tensor], Tensor]) -> float:
    """Share of the self-test rows whose next token is the head's first draft."""
    contexts = [
        DraftContext(
            request_id="selftest", token_ids=pair[:1], hidden=hidden, max_draft_tokens=1, seed=0, temperature=0.0
        )
        for hidden, pair in zip(selftest.hidden, selftest.token_ids.tolist(), strict=True)
    ]
    if not contexts:
        return 0.0
    drafts = draft_tokens(head, contexts, embed=embed)[0][:, 0]
    return float((drafts.cpu() == selftest.token_ids[:, 1]).float().mean())


def check_selftest(
    head: ServingHead, stored: artifact.StoredHead, folder: Path, *, embed: Callable[[Tensor], Tensor]
) -> None:
    """The head must still hit the stored continuations of its target. Raises SpeculatorError SelfTestFailed."""
    hit = accuracy(head, stored.selftest, embed=embed)
    needed = max(SELFTEST_SHARE * stored.config.selftest_accuracy, CHANCE_FACTOR / stored.config.draft_vocab_size)
    if not hit >= needed:
        raise SpeculatorError(
            f"{folder}: hits {hit:.1%} of its target's own {len(stored.selftest.token_ids)} self-test tokens, "
            f"needs {needed:.1%} (it hit {stored.config.selftest_accuracy:.1%} when it was made)",
            reason="SelfTestFailed",
        )


def _token_part(head: ServingHead, token_ids: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """From the table; computed where the last token isn't in the draft vocabulary."""
    indices = head.draft_index[token_ids]
    part = head.token_table[indices.clamp(min=0)]
    outside = (indices < 0).nonzero()[:, 0]
    if outside.numel():
        part[outside] = head.token_up(norm(embed(token_ids[outside]), head.eps))
    return part


def _draw(
    head: ServingHead, logits: Tensor, contexts: Sequence[DraftContext], step: int
) -> tuple[Tensor, Tensor]:  # [n] draft indices, [n] confidences
    """argmax; with the keyed noise of the position being drafted where the temperature is above 0.

    Sure is who wins by far: the target draws with the same noise, so only its logits can differ. The winner's share is
    softmax of what was compared (logits + temperature * noise), which at temperature 0 is its probability.
    """
    drawn = logits.argmax(dim=-1)
    confidence = _share_of_best(logits, head.confidence_temperature)
    noisy = [index for index, context in enumerate(contexts) if context.temperature > 0]
    if not noisy:
        return drawn, confidence
    values, candidates = logits[noisy].topk(min(NOISY_CANDIDATES, logits.shape[-1]), dim=-1)
    temperatures = torch.tensor([contexts[index].temperature for index in noisy], device=logits.device)[:, None]
    noise = gumbel_of(
        seeds=[contexts[index].seed for index in noisy],
        positions=[len(contexts[index].token_ids) + step for index in noisy],
        token_ids=head.draft_token_ids[candidates].cpu().numpy(),
    )
    scores = values / temperatures + torch.from_numpy(noise).to(logits.device)
    drawn[noisy] = candidates.gather(1, scores.argmax(dim=-1, keepdim=True))[:, 0]
    confidence[noisy] = _share_of_best((scores * temperatures).to(logits.dtype), head.confidence_temperature)
    return drawn, confidence


def _share_of_best(scores: Tensor, temperature: float) -> Tensor:  # [n, V] -> [n]; 0 where scores aren't finite
    behind = scores - scores.amax(dim=-1, keepdim=True)
    return torch.nan_to_num(1 / (behind / temperature).exp().sum(dim=-1), nan=0.0)
