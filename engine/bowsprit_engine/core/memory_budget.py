"""What an engine or a training run will take of a machine's memory, summed beforehand; refused when it can't fit.

Pure: parts and limits are values that others compute. The alternative is to be killed in the middle of a request, with
nothing said.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_engine.errors import WorldError

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """`detail` says what the bytes follow from, e.g. "8 sequences of 8192 tokens"."""

    name: str
    num_bytes: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """`source` is where the limit comes from, e.g. "the cgroup's limit"."""

    num_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySum:
    """All parts together, and what they must fit into. `needed_by`: whose parts, e.g. "the engine".

    `advice`: what a refusal says of needing less; empty where it has nothing to say.
    """

    needed_by: str
    parts: tuple[MemoryPart, ...]
    limit: MemoryLimit
    advice: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def check(self) -> None:
        """Raises WorldError naming every part, the sum and the limit, when the sum is above the limit."""
        if self.num_bytes > self.limit.num_bytes:
            advice = f". {self.advice}" if self.advice else ""
            raise WorldError(
                f"{self.needed_by} needs {readable(self.num_bytes)} and {self.limit.source} is "
                f"{readable(self.limit.num_bytes)}: {self}{advice}",
                reason="InsufficientMemory",
            )

    def __str__(self) -> str:
        return ", ".join(f"{part.name} {readable(part.num_bytes)} ({part.detail})" for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget(MemorySum):
    """An engine's. `kv_blocks` is the size of the KV cache that its part stands for."""

    needed_by: str = "the engine"
    advice: str = "Less is needed with a smaller --max-model-len, --max-batch-size or --kv-cache-memory"
    kv_blocks: int


def kv_blocks(
    *,
    useful: int,  # blocks of a full batch of full sequences
    least: int,  # blocks of one full sequence
    bytes_per_block: int,
    asked_bytes: int | None,  # None: what is left is shared
    left_bytes: int,  # of the limit, after all other parts
    share: float,  # of what is left that an engine takes by itself
) -> int:
    """What was asked for, or a share of what is left but never less than one full sequence; no more than is useful."""
    if asked_bytes is not None:
        return min(useful, asked_bytes // bytes_per_block)
    return min(useful, max(least, int(left_bytes * share) // bytes_per_block))


def readable(num_bytes: int) -> str:
    """E.g. "1.25 GiB", "340 MiB"."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.0f} MiB"
