"""From emissions to figures: which stretch of a task counts as decoding, and which as prefill.

Pure. The same cut for every engine: decoding is the stretch in which all sequences of the batch decode, from the moment
the last one has its first token to the moment the first one ends. What came before is prefill, however it was
scheduled; what comes after is a smaller batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.protocol import Answer, Emission


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Tokens that the whole batch emitted within the window."""

    num_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


def decoding(answer: Answer) -> Decoding:
    """Raises ValueError when there is no window: a sequence ended before another began."""
    sequences = _aligned(answer.emissions)
    begin = max(sequence[0].seconds for sequence in sequences)
    end = min(sequence[-1].seconds for sequence in sequences)
    if end <= begin:
        raise ValueError(f"no window: the last sequence begins at {begin:.4f} s, the first one ends at {end:.4f} s")
    num_tokens = sum(_emitted(sequence, by=end) - _emitted(sequence, by=begin) for sequence in sequences)
    return Decoding(num_tokens=num_tokens, seconds=end - begin)


def prefill_seconds(answer: Answer) -> float:
    """Until every sequence has its first token."""
    return max(sequence[0].seconds for sequence in answer.emissions)


def tokens_per_step(answer: Answer) -> float | None:
    """Mean tokens of a sequence's decode step, its first token excepted (that one comes from the prompt's last row)."""
    num_steps = sum(len(sequence) - 1 for sequence in answer.emissions)
    num_tokens = sum(sequence[-1].num_tokens - sequence[0].num_tokens for sequence in answer.emissions)
    return num_tokens / num_steps if num_steps else None


def _aligned(emissions: Sequence[Sequence[Emission]]) -> list[list[Emission]]:
    """Every emission at the moment its step's last one came.

    Engines hand out a step's tokens one sequence after another; a window's edge between them would count the step's
    time without all its tokens. A sequence emits once per step: its second emission begins the next one.
    """
    in_order = sorted(
        ((emission.seconds, index, emission.num_tokens) for index, row in enumerate(emissions) for emission in row)
    )
    aligned: list[list[Emission]] = [[] for _ in emissions]
    step: dict[int, tuple[float, int]] = {}

    def close_step() -> None:
        end = max((seconds for seconds, _ in step.values()), default=0.0)
        for index, (_, num_tokens) in step.items():
            aligned[index].append(Emission(seconds=end, num_tokens=num_tokens))
        step.clear()

    for seconds, index, num_tokens in in_order:
        if index in step:
            close_step()
        step[index] = (seconds, num_tokens)
    close_step()
    return aligned


def _emitted(sequence: Sequence[Emission], *, by: float) -> int:
    return max((emission.num_tokens for emission in sequence if emission.seconds <= by), default=0)
