"""The seam of drafting: one narrow interface, one file per implementation.

A drafter proposes tokens; verification (exact match with the keyed draw) makes any proposal safe for the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

from bowsprit_policy.wire import DrafterState, DrafterType


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftContext:
    """What a drafter may look at for one sequence. `hidden` is the target's row that emitted the last token.

    `hidden` is the input of the target's final norm at the last verified position, a float32 [hidden_size] tensor
    (typed loosely, since n-gram imports no torch), or None right after a preemption.
    """

    request_id: str
    token_ids: Sequence[int]  # prompt and everything emitted so far, the last token not yet run through the target
    hidden: object | None
    max_draft_tokens: int  # >= 1
    seed: int
    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    num_prompt_tokens: int = 0
    tenant: str = ""
    ahead: tuple[int, ...] = ()  # drafted already by another drafter: propose what follows these

    @property
    def text(self) -> list[int]:
        """What a proposal would follow."""
        return [*self.token_ids, *self.ahead]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Proposed tokens for one sequence; empty means no proposal.

    `confidences[i]`: probability that token i matches, given that all before it do, by the drafter's own counts; None
    where it can't say. The pool corrects it by what became of drafts so sure (speculation/confidence.py).
    """

    token_ids: tuple[int, ...]
    confidences: tuple[float, ...] | None = None


class Drafter(Protocol):
    """Proposes for a batch of sequences. Called by the engine's thread only.

    Raises nothing: a drafter that can't, proposes nothing.
    """

    name: str
    type: DrafterType
    state: DrafterState
    reason: str
    revision: str | None

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context, at most `max_draft_tokens` long each. `ahead` changes nothing that is kept."""

    def forget(self, request_id: str) -> None:
        """The sequence ended: drop what was kept for it."""


@runtime_checkable
class LearningDrafter(Protocol):
    """A drafter that learns from every emitted token, whoever drafted it, also while it is held at K = 0."""

    def learn(self, context: DraftContext) -> None:
        """The sequence now has these tokens; called after every step and before `forget`."""


@runtime_checkable
class CachingDrafter(Protocol):
    """A drafter with a KV cache of its own, which lags behind the target's while it isn't asked. Read by any thread."""

    @property
    def kv_lag_tokens(self) -> int:
        """Tokens of live sequences that the target has computed and the drafter hasn't."""

    num_not_finite: int  # drafts that ended in logits that are not finite


@runtime_checkable
class LoadableDrafter(Protocol):
    """A drafter with revisions. `load` may run in any thread beside the engine's; `swap_in` in the engine's only."""

    def load(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> object:
        """Build and check new weights beside those in use. Raises SpeculatorError; what is in use stays."""

    def swap_in(self, loaded: object) -> None:
        """Put what `load` returned into use."""

    def unload(self) -> None:
        """Drop the weights; the drafter is Empty from now on."""


@runtime_checkable
class ShadowableDrafter(Drafter, LoadableDrafter, Protocol):
    """A drafter that can be asked by weights that it doesn't use, and keeps nothing of any proposal."""

    def load_beside(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> object:
        """As `load`, but a refusal leaves the drafter's state as it is."""

    def propose_by(self, loaded: object, contexts: Sequence[DraftContext]) -> list[Draft]:
        """`propose` by what `load_beside` or `load` returned. Called by the engine's thread only."""


def why_unsound(drafts: Sequence[Draft], contexts: Sequence[DraftContext], *, vocab_size: int) -> str | None:
    """What makes a drafter's answer unusable: the wrong number of drafts or confidences, tokens that don't exist,
    values of other types than a draft's. NaN is a number here: the pool believes it least.
    """
    if len(drafts) == len(contexts) and _are_plain(drafts, vocab_size):
        return None
    strange = [token for draft in drafts for token in draft.token_ids if not 0 <= token < vocab_size]
    short = [d for d in drafts if d.confidences is not None and len(d.confidences) != len(d.token_ids)]
    mistyped = [draft for draft in drafts if not _is_typed(draft)]
    if len(drafts) == len(contexts) and not strange and not short and not mistyped:
        return None
    return (
        f"{len(drafts)} drafts for {len(contexts)} sequences, tokens outside the vocabulary: {strange[:5]}, "
        f"{len(short)} drafts without a confidence for each token, "
        f"{len(mistyped)} that aren't tuples of tokens and numbers: {mistyped[:1]!s:.160}"
    )


def _are_plain(drafts: Sequence[Draft], vocab_size: int) -> bool:
    """Nearly all: every step asks, so of all drafts together, and the inner loops are the interpreter's own."""
    said: list[tuple[float, ...]] = []
    for draft in drafts:
        tokens, sure = draft.token_ids, draft.confidences
        if type(tokens) is not tuple:
            return False
        if sure is not None:
            if type(sure) is not tuple or len(sure) != len(tokens):
                return False
            said.append(sure)
    all_tokens = [*chain.from_iterable([draft.token_ids for draft in drafts])]
    if not {*map(type, all_tokens)} <= {int} or not {*map(type, chain.from_iterable(said))} <= {float, int}:
        return False
    return not all_tokens or (min(all_tokens) >= 0 and max(all_tokens) < vocab_size)


def _is_typed(draft: Draft) -> bool:
    if type(draft.token_ids) is not tuple or not all(hasattr(token, "__index__") for token in draft.token_ids):
        return False
    if draft.confidences is None:
        return True
    return type(draft.confidences) is tuple and all(isinstance(each, float | int) for each in draft.confidences)
