"""Stand-ins that obey the engine's seams: a model without weights, drafters that are always right or never.

The fake model keeps token ids in a paged cache and computes a row's logits from the ids that it finds there, so a wrong
block table, a stale slot or a lost token changes its output as it would change a real model's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_policy.wire import DrafterState, DrafterType

FAKE_VOCAB = 61
FAKE_EOS = 60
HIDDEN = 4
TABLE_ROWS = 997


class FakeRunner:
    """A row's logits: mostly its last token's doing (so text repeats itself), a little the whole context's."""

    is_row_invariant = True
    accelerator = "fake"
    dtype = "float32"
    num_threads = 1

    def __init__(self, *, max_model_len: int = 256, eos_bias: float = -30.0) -> None:
        self.config = ModelConfig(
            vocab_size=FAKE_VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=8,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=4,
            max_model_len=max_model_len,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_ids=(FAKE_EOS,),
        )
        generator = torch.Generator().manual_seed(7)
        self._table = torch.randn(TABLE_ROWS, FAKE_VOCAB, generator=generator)
        self._table[:, FAKE_EOS] += eos_bias
        self.num_forwards = 0
        self.max_rows = 0
        self.before_forward: Callable[[StepBatch], None] = lambda _: None
        self.poisoned: set[tuple[int, ...]] = set()  # contexts whose logits are NaN

    def allocate_kv(self, num_blocks: int) -> None:
        self._cache = torch.randint(0, FAKE_VOCAB, (num_blocks, BLOCK_SIZE), generator=torch.Generator().manual_seed(1))

    def kv_bytes_per_block(self) -> int:
        return BLOCK_SIZE * 8

    def forward(self, batch: StepBatch) -> ModelOutput:
        self.before_forward(batch)
        self.num_forwards += 1
        self.max_rows = max(self.max_rows, batch.token_ids.numel())
        tokens, positions = batch.token_ids.tolist(), batch.positions.tolist()
        tables = [batch.block_tables[index] for index in batch.row_sequences.tolist()]
        for token, position, table in zip(tokens, positions, tables, strict=True):
            self._cache[table[position // BLOCK_SIZE], position % BLOCK_SIZE] = token
        wanted = batch.logit_rows.tolist()
        contexts = [self._context(tables[row], positions[row]) for row in wanted]
        logits = [self._logits(context) for context in contexts]
        hidden = torch.zeros(len(tokens), HIDDEN)
        hidden[:, 0] = batch.positions.to(torch.float32)
        return ModelOutput(
            logits=torch.stack(logits) if logits else torch.zeros(0, FAKE_VOCAB),
            hidden=hidden,
        )

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(token_ids.numel(), HIDDEN)

    def lm_head_rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(token_ids.numel(), HIDDEN)

    def final_norm_weight(self) -> torch.Tensor:
        return torch.ones(HIDDEN)

    def _context(self, table: torch.Tensor, position: int) -> tuple[int, ...]:
        num_blocks = position // BLOCK_SIZE + 1
        return tuple(self._cache[table[:num_blocks].to(torch.int64)].reshape(-1)[: position + 1].tolist())

    def _logits(self, context: tuple[int, ...]) -> torch.Tensor:
        if context in self.poisoned:
            return torch.full((FAKE_VOCAB,), torch.nan)
        recent = hash(context[-1:]) % TABLE_ROWS
        whole = hash(context) % TABLE_ROWS
        return 3.0 * self._table[recent] + 0.6 * self._table[whole]


class FakeDrafter:
    """A drafter whose proposals a function makes from (context)."""

    revision: str | None = None
    reason = ""

    def __init__(
        self, *, name: str, draft: Callable[[DraftContext], Sequence[int]], type: DrafterType = DrafterType.HEAD
    ) -> None:
        self.name = name
        self.type = type
        self.state = DrafterState.ACTIVE
        self.draft = draft
        self.forgotten: list[str] = []

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [Draft(token_ids=tuple(self.draft(context))[: context.max_draft_tokens]) for context in contexts]

    def forget(self, request_id: str) -> None:
        self.forgotten.append(request_id)


def adversary(name: str = "adversary", *, vocab_size: int = FAKE_VOCAB) -> FakeDrafter:
    """Proposes random tokens, now and then a few by luck right."""
    dice = random.Random(3)
    return FakeDrafter(
        name=name, draft=lambda context: [dice.randrange(vocab_size) for _ in range(context.max_draft_tokens)]
    )


def oracle(answers: Mapping[str, Sequence[int]], name: str = "oracle") -> FakeDrafter:
    """Replays the right tokens: `answers` maps request ids to whole sequences, prompt included."""

    def draft(context: DraftContext) -> Sequence[int]:
        known = answers.get(context.request_id, ())
        return list(known[len(context.token_ids) :])

    return FakeDrafter(name=name, draft=draft)
