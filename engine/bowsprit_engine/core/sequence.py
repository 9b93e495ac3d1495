"""One sequence while it lives in the engine: its tokens, its KV blocks, how far the target has computed it.

Knows neither torch nor how it is scheduled. `hidden` is opaque here: drafters and the step understand it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bowsprit_engine.core.grammar import GrammarState
from bowsprit_engine.core.kv_cache import num_blocks_for
from bowsprit_engine.core.request import Request, RequestMetrics
from bowsprit_engine.core.token_counts import TokenCounts


@dataclass(slots=True, kw_only=True, eq=False)
class LiveSequence:
    """Mutable state of one request. Only the engine's thread touches it.

    `token_ids`: the prompt and everything emitted. `num_computed`: leading tokens whose K and V are in the cache.
    A sequence decodes when exactly its last token is not computed and was emitted; the prompt's last row prefills.
    `block_labels`: of its leading full blocks, as far as they were asked for (tokens before the end never change).
    `num_labelled`: leading blocks that the prefix cache has labelled or taken. `num_cached_tokens`: of the prompt, not
    computed by this sequence.
    """

    request: Request
    token_ids: list[int]
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    block_labels: list[bytes] = field(default_factory=list)
    num_labelled: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    hidden: object | None = None
    accepted_counts: list[int] = field(default_factory=list)  # per decode step
    drafter_names: list[str] = field(default_factory=list)  # per decode step, "" where nothing was drafted
    num_draft_tokens: int = 0
    num_spec_steps: int = 0
    histogram: list[int] = field(default_factory=list)
    grammar: GrammarState | None = None
    counts: TokenCounts | None = None  # made when penalties first ask for them

    @classmethod
    def begin(cls, request: Request) -> LiveSequence:
        grammar = None if request.grammar is None else request.grammar.begin()
        return cls(request=request, token_ids=list(request.prompt_token_ids), grammar=grammar)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_emitted(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def is_decoding(self) -> bool:
        return self.num_emitted > 0 and len(self.token_ids) - self.num_computed == 1

    @property
    def num_missing_blocks(self) -> int:
        """Blocks still to be allocated before all its tokens have a slot."""
        return max(0, num_blocks_for(len(self.token_ids)) - len(self.block_ids))

    def room_for_drafts(self, max_model_len: int) -> int:
        """Draft tokens after which, with the bonus, neither max_tokens nor the model's length is exceeded."""
        left = self.request.sampling.max_tokens - self.num_emitted
        return max(0, min(left, max_model_len - len(self.token_ids)) - 1)

    def num_possible(self, draft: Sequence[int]) -> int:
        """Leading tokens of a draft that may all be emitted: those beyond would be rows for nothing."""
        return len(draft) if self.grammar is None else self.grammar.num_possible(draft)

    def forced(self, limit: int) -> tuple[int, ...]:
        """At most `limit` tokens that its grammar leaves no choice about."""
        return () if self.grammar is None else self.grammar.forced(limit)

    def record_step(self, *, drafter: str, num_drafted: int, num_accepted: int) -> None:
        """Count one decode step."""
        self.accepted_counts.append(num_accepted)
        self.drafter_names.append(drafter)
        if num_drafted:
            self.num_spec_steps += 1
            self.num_draft_tokens += num_drafted
            self.histogram.extend([0] * (num_accepted + 1 - len(self.histogram)))
            self.histogram[num_accepted] += 1

    def metrics(self) -> RequestMetrics:
        return RequestMetrics(
            num_spec_steps=self.num_spec_steps,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_draft_tokens=sum(self.accepted_counts),
            acceptance_histogram=tuple(self.histogram),
            num_steps=len(self.accepted_counts),
            num_cached_tokens=self.num_cached_tokens,
        )
