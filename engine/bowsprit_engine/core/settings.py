"""What an engine is built with, resolved once by whoever builds it: no "auto" is left here but the speculation mode."""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_engine.core.kv_cache import BLOCK_SIZE
from bowsprit_engine.errors import CallerError
from bowsprit_engine.speculation.table import SpeculationMode

LEAST = {"max_batch_size": 1, "max_model_len": 2, "draft_tokens_max": 0, "prefill_chunk": 1, "max_waiting": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Limits of one engine. `prefill_chunk`: most prompt tokens per step, over all sequences.

    `has_prefix_cache`: whether sequences share the KV blocks of what they have in common. `prefill_delay_steps`: what
    prompt tokens may delay running streams by in a step, in steps without them, as profiled; None: by any chunk.
    `max_waiting`: requests that may wait beside those of a full batch.
    """

    model_name: str
    model_digest: str
    max_batch_size: int
    max_model_len: int
    kv_blocks: int
    draft_tokens_max: int
    prefill_chunk: int = 256
    prefill_delay_steps: float | None = None
    has_prefix_cache: bool = True
    max_waiting: int = 256
    speculation_mode: SpeculationMode = "auto"

    def __post_init__(self) -> None:
        """Raises CallerError for a cache in which not even one sequence of full length fits, and for useless limits."""
        if self.kv_blocks * BLOCK_SIZE < self.max_model_len:
            raise CallerError(
                f"a KV cache of {self.kv_blocks} blocks holds {self.kv_blocks * BLOCK_SIZE} tokens, "
                f"less than one sequence of max_model_len {self.max_model_len}: more --kv-cache-memory or a smaller "
                "--max-model-len is needed",
                param="kv_cache_memory",
            )
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise CallerError(f"{name} is {getattr(self, name)}, the least is {least}", param=name)
        if isinstance(self.speculation_mode, int) and not 0 <= self.speculation_mode <= self.draft_tokens_max:
            raise CallerError(
                f"speculation {self.speculation_mode} is not within 0 and draft_tokens_max {self.draft_tokens_max}",
                param="speculation",
            )
