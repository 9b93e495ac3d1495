"""The draft model's KV beside the target's: what of each sequence is in its cache, and which rows bring it up to date.

Decides by comparing tokens, never by being told what became of a draft: what a sequence's cache holds is kept as far as
it equals the sequence's text, so accepted drafts are kept, and refused ones, those of other drafters, K = 0, preemption
of the target and its prefix hits all come out as a longer or shorter lag. Refuses to know torch and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bowsprit_engine.core.kv_cache import BlockAllocator, num_blocks_for
from bowsprit_engine.speculation.drafters.base import DraftContext


@dataclass(slots=True, kw_only=True, eq=False)
class DraftSequence:
    """`computed`: the tokens whose K and V are in its blocks, by position. `num_confirmed`: leading ones of them that
    were found equal to the sequence's own, which never change. `num_known`: tokens that the sequence has.
    """

    computed: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    num_confirmed: int = 0
    num_known: int = 0
    has_failed: bool = False  # its logits were not finite: it isn't drafted any more

    @property
    def lag(self) -> int:
        """Tokens that the target has computed and the draft model hasn't."""
        return 0 if self.has_failed else max(0, self.num_known - 1 - len(self.computed))

    def follow(self, token_ids: Sequence[int], ahead: Sequence[int] = ()) -> None:
        """Keep of `computed` what is in `token_ids` and `ahead`, but for the last token, whose logits are wanted."""
        text = [*token_ids, *ahead] if ahead else token_ids
        index, end = self.num_confirmed, min(len(self.computed), len(text) - 1)
        while index < end and self.computed[index] == text[index]:
            index += 1
        del self.computed[index:]
        self.num_confirmed = max(self.num_confirmed, min(index, len(token_ids) - 1))
        self.num_known = len(token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """Rows that bring a sequence up to date: `token_ids` from position len(sequence.computed) on.

    `num_drafts`: tokens to draft after them; 0 where a chunk doesn't reach the end of the text.
    """

    index: int  # of the context
    sequence: DraftSequence
    token_ids: tuple[int, ...]
    num_drafts: int


class DraftKv:
    """Sequences and blocks of a draft model's cache. Blocks go to those that are drafted now; who is idle loses them.

    A sequence that the target has preempted, or that other drafters serve, keeps its blocks until another needs them:
    it is recomputed then, a chunk per step, as a new one is.
    """

    def __init__(self, *, num_blocks: int, max_model_len: int, vocab_size: int, chunk_tokens: int) -> None:
        self.blocks = BlockAllocator(num_blocks)
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._chunk_tokens = chunk_tokens
        self._sequences: dict[str, DraftSequence] = {}  # the one asked for longest ago first

    @property
    def lag_tokens(self) -> int:
        """Over all live sequences. Any thread may ask."""
        return sum(sequence.lag for sequence in tuple(self._sequences.values()))

    def learn(self, request_id: str, token_ids: Sequence[int]) -> None:
        """The sequence has these tokens now. Costs the tokens that are new since last time."""
        self._sequences.setdefault(request_id, DraftSequence()).follow(token_ids)

    def forget(self, request_id: str) -> None:
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._release(sequence)

    def fail(self, sequence: DraftSequence) -> None:
        """Its logits were not finite: give its blocks back and leave it alone."""
        self._release(sequence)
        sequence.has_failed = True

    def plan(self, contexts: Sequence[DraftContext]) -> list[CatchUp]:
        """Rows for one forward pass, `chunk_tokens` at most: those that lag least first, so that one long prompt keeps
        nobody else from being drafted. Sequences without room in blocks or in the model's length get none.
        """
        asked = [(index, context, self._begin(context)) for index, context in enumerate(contexts)]
        asked.sort(key=lambda entry: _num_tokens(entry[1]) - len(entry[2].computed))
        busy = {context.request_id for context in contexts}
        plan: list[CatchUp] = []
        left = self._chunk_tokens
        for index, context, sequence in asked:
            num_drafts = min(context.max_draft_tokens, self._max_model_len - _num_tokens(context) + 1)
            token_ids = tuple(context.text[len(sequence.computed) :])
            if sequence.has_failed or num_drafts < 1 or not left or max(token_ids) >= self._vocab_size:
                continue
            if not self._grow(sequence, _num_tokens(context) + num_drafts - 1, busy):
                continue
            chunk = token_ids[:left]
            is_whole = len(chunk) == len(token_ids)
            plan.append(
                CatchUp(index=index, sequence=sequence, token_ids=chunk, num_drafts=num_drafts if is_whole else 0)
            )
            left -= len(chunk)
        return plan

    def _begin(self, context: DraftContext) -> DraftSequence:
        sequence = self._sequences.pop(context.request_id, None) or DraftSequence()
        self._sequences[context.request_id] = sequence
        sequence.follow(context.token_ids, context.ahead)
        return sequence

    def _grow(self, sequence: DraftSequence, num_tokens: int, busy: set[str]) -> bool:
        """Whether the sequence has blocks for `num_tokens` now. All or none, so that nobody waits with a part."""
        needed = max(0, num_blocks_for(num_tokens) - len(sequence.block_ids))
        idle = [other for name, other in self._sequences.items() if name not in busy and other.block_ids]
        if needed > self.blocks.num_free + sum(len(other.block_ids) for other in idle):
            return False
        for other in idle:
            if needed <= self.blocks.num_free:
                break
            self._release(other)
        sequence.block_ids += self.blocks.allocate(needed)
        return True

    def _release(self, sequence: DraftSequence) -> None:
        self.blocks.release(sequence.block_ids)
        sequence.block_ids.clear()
        sequence.computed.clear()
        sequence.num_confirmed = 0


def _num_tokens(context: DraftContext) -> int:
    return len(context.token_ids) + len(context.ahead)
