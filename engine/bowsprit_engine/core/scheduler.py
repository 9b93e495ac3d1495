"""Who runs in the next step: admission, chunked prefill beside decoding, preemption by recompute.

Decides which sequences get rows and KV blocks. Refuses to know torch, logits, drafters and time: a plan depends on the
queue, the free blocks and what the chunk's limits say.

- Every decoding sequence is in every step. A prompt gets what is left of `prefill_chunk` tokens, oldest first, so a
  long prompt never holds running streams up by more than one chunk, which is smaller beside streams than alone.
- First come, first served. A sequence is admitted when all its tokens and one spare block per running sequence fit.
- When blocks run out, the youngest goes back to the head of the queue with its tokens kept; it is recomputed later, but
  for what the prefix cache still has, and resumes exactly, since a row's result depends only on its context.
- A prompt whose next block another one computes in this very step waits for that step and takes the block.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bowsprit_engine.core.kv_cache import BLOCK_SIZE, BlockAllocator, num_blocks_for
from bowsprit_engine.core.prefill_chunk import ChunkLimits
from bowsprit_engine.core.prefix_cache import PrefixCache
from bowsprit_engine.core.sequence import LiveSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """`num_tokens` tokens of one sequence, from its first token that is not computed."""

    sequence: LiveSequence
    num_tokens: int

    @property
    def completes(self) -> bool:
        """Whether its last row is the sequence's last token, whose logits give the next one."""
        return self.sequence.num_computed + self.num_tokens == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step runs. Empty when there is nothing to do."""

    decodes: tuple[LiveSequence, ...] = ()
    prefills: tuple[PrefillChunk, ...] = ()
    prefill_context: int = 0  # computed tokens of the prompt that has come farthest
    preempted: tuple[LiveSequence, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.decodes and not self.prefills

    @property
    def mean_context(self) -> float:
        """Tokens of a decoding sequence as they are now, on average; 0 where none decodes."""
        return sum(len(sequence.token_ids) for sequence in self.decodes) / len(self.decodes) if self.decodes else 0.0


class Scheduler:
    """The waiting queue, the running sequences (oldest first in both) and the KV blocks."""

    def __init__(
        self,
        *,
        num_blocks: int,
        max_batch_size: int,
        prefill_chunk: int,
        model_digest: str = "",
        has_prefix_cache: bool = True,
    ) -> None:
        self.blocks = BlockAllocator(num_blocks)
        self.prefixes = PrefixCache(self.blocks, model_digest=model_digest, is_on=has_prefix_cache)
        self._max_batch_size = max_batch_size
        self._prefill_chunk = prefill_chunk
        self._chunk_limits: ChunkLimits | None = None
        self._waiting: deque[LiveSequence] = deque()
        self._running: list[LiveSequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def running(self) -> tuple[LiveSequence, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[LiveSequence, ...]:
        return tuple(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def limit_chunks(self, limits: ChunkLimits) -> None:
        """Beside running streams a step carries no more prompt tokens than these limits say."""
        self._chunk_limits = limits

    def note_step(self, plan: StepPlan, *, seconds: float) -> None:
        """What an uncontended step took: the limits learn from it."""
        if self._chunk_limits is not None and plan.decodes:
            self._chunk_limits.note_step(
                num_decodes=len(plan.decodes),
                num_tokens=sum(chunk.num_tokens for chunk in plan.prefills),
                context=plan.prefill_context,
                seconds=seconds,
            )

    def add(self, sequence: LiveSequence) -> None:
        self._waiting.append(sequence)

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is, and free its blocks at once; what they hold can be shared until reused."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._release(sequence)

    def distrust(self, sequence: LiveSequence) -> None:
        """Its KV may be wrong: nobody takes it over. Call it before `remove`."""
        self.prefixes.distrust(sequence)

    def schedule(self) -> StepPlan:
        """Plan one step: room for one more token of every decoding sequence, then prompts within the chunk."""
        for sequence in self._running:
            self.prefixes.keep(sequence)
        preempted = self._make_room()
        self._admit()
        for sequence in self._running:
            if not sequence.is_decoding:
                self.prefixes.advance(sequence)
        decodes = tuple(sequence for sequence in self._running if sequence.is_decoding)
        context = max((sequence.num_computed for sequence in self._running if not sequence.is_decoding), default=0)
        prefills = self._prefills(self._chunk(num_decodes=len(decodes), context=context))
        return StepPlan(decodes=decodes, prefills=prefills, prefill_context=context, preempted=preempted)

    def reserve_drafts(self, sequence: LiveSequence, num_drafts: int) -> int:
        """Give blocks to as many of `num_drafts` drafts as free ones allow, never preempting; the number granted."""
        num_tokens = len(sequence.token_ids)
        needed = num_blocks_for(num_tokens + num_drafts) - len(sequence.block_ids)
        if needed > 0:
            sequence.block_ids += self.blocks.allocate(min(needed, self.blocks.num_free))
        return min(num_drafts, len(sequence.block_ids) * BLOCK_SIZE - num_tokens)

    def trim(self, sequence: LiveSequence) -> None:
        """Give back the blocks that only rejected drafts had used."""
        keep = num_blocks_for(len(sequence.token_ids))
        self.blocks.release(sequence.block_ids[keep:])
        del sequence.block_ids[keep:]

    def _make_room(self) -> tuple[LiveSequence, ...]:
        preempted: list[LiveSequence] = []
        for sequence in tuple(self._running):
            while sequence in self._running and sequence.num_missing_blocks > self.blocks.num_free:
                preempted.append(self._preempt_youngest())
            if sequence in self._running:
                sequence.block_ids += self.blocks.allocate(sequence.num_missing_blocks)
        return tuple(preempted)

    def _preempt_youngest(self) -> LiveSequence:
        sequence = self._running.pop()
        self._release(sequence)
        sequence.num_preemptions += 1
        self._waiting.appendleft(sequence)
        return sequence

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_batch_size:
            sequence = self._waiting[0]
            num_needed = sequence.num_missing_blocks - self.prefixes.num_in_use(sequence)
            if num_needed + len(self._running) > self.blocks.num_free:
                return
            self._running.append(self._waiting.popleft())
            self.prefixes.begin(sequence)
            sequence.block_ids += self.blocks.allocate(sequence.num_missing_blocks)

    def _chunk(self, *, num_decodes: int, context: int) -> int:
        """Prompt tokens of this step, as if all were of the prompt that has come farthest."""
        if self._chunk_limits is None:
            return self._prefill_chunk
        return self._chunk_limits.tokens(num_decodes=num_decodes, context=context)

    def _prefills(self, left: int) -> tuple[PrefillChunk, ...]:
        """Chunks of `left` tokens in all."""
        chunks: list[PrefillChunk] = []
        coming: set[bytes] = set()
        for sequence in self._running:
            num_tokens = min(left, len(sequence.token_ids) - sequence.num_computed)
            if num_tokens and not sequence.is_decoding and not self.prefixes.waits_for(sequence, coming):
                chunks.append(PrefillChunk(sequence=sequence, num_tokens=num_tokens))
                coming.update(self.prefixes.labels_of_chunk(sequence, num_tokens))
                left -= num_tokens
        return tuple(chunks)

    def _release(self, sequence: LiveSequence) -> None:
        self.prefixes.keep(sequence)
        self.blocks.release(sequence.block_ids)
        sequence.block_ids.clear()
        sequence.num_labelled = 0
        sequence.num_computed = 0
        sequence.hidden = None
