"""Which sequences have tokens in common, and therefore KV blocks: each full block is labelled by all that is in it.

Decides what must be equal for a block to be shared (the model, the tenant, every token up to the block's end) and how
far into a sequence a hit may reach. Refuses to know torch, time, and who runs.

- A block is labelled when its last token has been verified and computed, and is never written again after that: a
  sequence writes only rows from `num_computed` on. Refused drafts lie beyond it, so they are in no labelled block.
- The last token is always computed by the sequence itself: its row gives the next token, and the hidden state from
  which drafters start, so that a hit leaves target and drafter in step.
- What the answer emitted is kept as the prompt is: the next turn of a chat finds it, a preempted sequence its own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Set

from bowsprit_engine.core.kv_cache import BLOCK_SIZE, BlockAllocator
from bowsprit_engine.core.sequence import LiveSequence

LABEL_BYTES = 16  # of BLAKE2b: two contents with one label are as likely as a fault of the memory they are in


class PrefixCache:
    """Shares blocks among the sequences of one engine. Turned off, it labels nothing and so finds nothing.

    `num_queried` and `num_hit` count prompt tokens of sequences that begin, as vLLM does; a resumed one isn't counted.
    """

    def __init__(self, blocks: BlockAllocator, *, model_digest: str, is_on: bool) -> None:
        self._blocks = blocks
        self._model_digest = model_digest
        self._is_on = is_on
        self.num_queried = 0
        self.num_hit = 0

    def num_in_use(self, sequence: LiveSequence) -> int:
        """Blocks that it would share with sequences that run: they cost no free block."""
        return sum(self._blocks.num_owners(block) > 0 for block in self._kept(sequence))

    def begin(self, sequence: LiveSequence) -> None:
        """A sequence is admitted: take what is kept of its tokens."""
        if sequence.num_preemptions == 0:
            self.num_queried += sequence.num_prompt_tokens
        self.advance(sequence)

    def advance(self, sequence: LiveSequence) -> None:
        """Move `num_computed` past the blocks that are kept, those that a neighbour computed just now included.

        The sequence's own blocks in their place, in which nothing is written yet, go back.
        """
        for block in self._kept(sequence):
            self._blocks.share(block)
            index = sequence.num_computed // BLOCK_SIZE
            replaced = sequence.block_ids[index : index + 1]
            sequence.block_ids[index : index + 1] = [block]
            self._blocks.release(replaced)
            sequence.num_computed += BLOCK_SIZE
            if sequence.num_labelled == index:
                sequence.num_labelled += 1
            if sequence.num_preemptions == 0:
                sequence.num_cached_tokens += BLOCK_SIZE
                self.num_hit += BLOCK_SIZE

    def keep(self, sequence: LiveSequence) -> None:
        """Label the blocks that are full and computed. Call it after each step, and before blocks are released."""
        indices = range(sequence.num_labelled, sequence.num_computed // BLOCK_SIZE)
        if not indices:
            return
        for index, label in zip(indices, self._labels(sequence, indices), strict=self._is_on):
            self._blocks.label(sequence.block_ids[index], label)
        sequence.num_labelled = indices.stop

    def distrust(self, sequence: LiveSequence) -> None:
        """Let nobody share what this sequence computed or read: a step failed, or its logits were not finite."""
        for block in sequence.block_ids:
            self._blocks.unlabel(block)
        sequence.num_computed = 0

    def waits_for(self, sequence: LiveSequence, coming: Set[bytes]) -> bool:
        """Whether the next block that it would compute is one of those that others compute in this step."""
        return any(label in coming for label in self._labels(sequence, self._next_blocks(sequence)[:1]))

    def labels_of_chunk(self, sequence: LiveSequence, num_tokens: int) -> list[bytes]:
        """Labels of the blocks that are full once the next `num_tokens` tokens are computed."""
        num_computed = sequence.num_computed
        return self._labels(sequence, range(num_computed // BLOCK_SIZE, (num_computed + num_tokens) // BLOCK_SIZE))

    def _kept(self, sequence: LiveSequence) -> list[int]:
        """The blocks that are kept of a sequence from its first token that is not computed, to its last but one."""
        blocks: list[int] = []
        for label in self._labels(sequence, self._next_blocks(sequence)):
            block = self._blocks.find(label)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _next_blocks(self, sequence: LiveSequence) -> range:
        """Indices of the blocks that a sequence could take instead of computing them."""
        if sequence.num_computed % BLOCK_SIZE:
            return range(0)
        return range(sequence.num_computed // BLOCK_SIZE, (len(sequence.token_ids) - 1) // BLOCK_SIZE)

    def _labels(self, sequence: LiveSequence, indices: range) -> list[bytes]:
        """Labels of blocks of which all tokens are known; none while turned off."""
        if not self._is_on:
            return []
        labels = sequence.block_labels
        while len(labels) < indices.stop:
            begin = len(labels) * BLOCK_SIZE
            parent = labels[-1] if labels else self._root(sequence.request.tenant)
            tokens = array("q", sequence.token_ids[begin : begin + BLOCK_SIZE])
            labels.append(hashlib.blake2b(tokens.tobytes(), key=parent, digest_size=LABEL_BYTES).digest())
        return [labels[index] for index in indices]

    def _root(self, tenant: str) -> bytes:
        """Tenants share nothing: how long a first token takes would tell one what another has asked."""
        return hashlib.blake2b(f"{self._model_digest}/{tenant}".encode(), digest_size=LABEL_BYTES).digest()
