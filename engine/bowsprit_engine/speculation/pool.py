"""Who drafts for each sequence: the n-gram drafter where it matches, else the head.

Decides per sequence by asking the admitted drafters in order, count-based ones first, until one proposes. How many
tokens each may propose is given (speculation/policy.py). A drafter that raises is Broken from then on; serving goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_policy.wire import DrafterState, DrafterType

logger = logging.getLogger(__name__)

ORDER = (DrafterType.NGRAM, DrafterType.HEAD, DrafterType.MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A draft and who made it; `drafter` is "" and `token_ids` empty where nobody proposed."""

    drafter: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One step's drafting: a proposal per sequence; who was asked how often, proposed how often, and for how long."""

    proposals: tuple[Proposal, ...]
    asked: Mapping[str, int] = field(default_factory=dict)
    proposed: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class DrafterPool:
    """The engine's drafters, in the order in which they are asked."""

    def __init__(self, drafters: Sequence[Drafter], *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.drafters = tuple(sorted(drafters, key=lambda drafter: ORDER.index(drafter.type)))

    def draft(
        self,
        sequences: Sequence[LiveSequence],
        caps: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
    ) -> PoolReport:
        """Ask the drafters in order; each only for the sequences for which no earlier one proposed."""
        proposals = [Proposal()] * len(sequences)
        asked: dict[str, int] = {}
        proposed: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for drafter in self.drafters:
            open_indices = [
                index
                for index, by_name in enumerate(caps)
                if by_name.get(drafter.name, 0) > 0 and not proposals[index].token_ids
            ]
            if not open_indices or drafter.state is not DrafterState.ACTIVE:
                continue
            begin = time.perf_counter()
            contexts = [_context(sequences[index], caps[index][drafter.name]) for index in open_indices]
            drafts = self._propose(drafter, contexts)
            seconds[drafter.name] = time.perf_counter() - begin
            for index, draft in zip(open_indices, drafts, strict=True):
                if draft.token_ids:
                    limit = caps[index][drafter.name]
                    proposals[index] = Proposal(drafter=drafter.name, token_ids=draft.token_ids[:limit])
            asked[drafter.name] = len(open_indices)
            proposed[drafter.name] = sum(bool(draft.token_ids) for draft in drafts)
        return PoolReport(proposals=tuple(proposals), asked=asked, proposed=proposed, seconds=seconds)

    def forget(self, request_id: str) -> None:
        for drafter in self.drafters:
            drafter.forget(request_id)

    def _propose(self, drafter: Drafter, contexts: Sequence[DraftContext]) -> Sequence[Draft]:
        try:
            drafts = drafter.propose(contexts)
            strange = [token for draft in drafts for token in draft.token_ids if not 0 <= token < self._vocab_size]
            if len(drafts) == len(contexts) and not strange:
                return drafts
            reason = f"{len(drafts)} drafts for {len(contexts)} sequences, tokens outside the vocabulary: {strange[:5]}"
        except Exception as error:
            logger.exception("drafter %s raised", drafter.name)
            reason = f"{type(error).__name__}: {error}"
        drafter.state, drafter.reason = DrafterState.BROKEN, reason
        logger.error("drafter %s is Broken and not asked any more: %s", drafter.name, reason)
        return [Draft(token_ids=())] * len(contexts)


def _context(sequence: LiveSequence, cap: int) -> DraftContext:
    request = sequence.request
    return DraftContext(
        request_id=request.request_id,
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        max_draft_tokens=cap,
        seed=request.sampling.seed,
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        min_p=request.sampling.min_p,
    )
