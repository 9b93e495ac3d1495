"""How many prompt tokens a step may carry beside running streams: as many as delay them by a given number of steps.

Decides by step times alone: what the start-up profile says of a step with so many rows, corrected by what such steps
have taken since (chunk_feedback.py). Knows neither sequences nor the queue.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from bowsprit_engine.core.chunk_feedback import ChunkFeedback
from bowsprit_policy.wire import Profile, StepCell

LEAST_TOKEN_STEPS = 0.001  # decode steps that a prompt token is expected to add at least


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledSteps:
    """Seconds of a step by its rows, whatever sequences they belong to.

    Read linearly between the profile's cells and along the whole curve's slope beyond them; and what a row of a prompt
    pays for attention to a context that is longer than the profile's.
    """

    curve: tuple[tuple[int, float], ...]  # at least two (rows, seconds), in ascending order of both
    context: int = 0  # tokens of the curve's sequences
    attention_seconds: float = 0.0  # of one row, per token of context beyond the curve's

    def seconds(self, rows: int) -> float:
        return _seconds(self.curve, rows)

    def added(self, *, num_decodes: int, num_tokens: int, context: int) -> float:
        """By so many prompt tokens, of prompts of which `context` tokens are computed."""
        attention = num_tokens * max(0, context - self.context) * self.attention_seconds
        return self.seconds(num_decodes + num_tokens) - self.seconds(num_decodes) + attention


class ChunkLimits:
    """The most prompt tokens, at least 1, that are expected to lengthen a step by no more than `delay_steps` steps."""

    def __init__(self, steps: ProfiledSteps, *, prefill_chunk: int, delay_steps: float) -> None:
        self._steps = steps
        self._prefill_chunk = prefill_chunk
        self._delay_steps = delay_steps
        self._feedback = ChunkFeedback()

    def tokens(self, *, num_decodes: int, context: int) -> int:
        """Beside so many decoding sequences, of prompts of which `context` tokens are computed. Without any, all."""
        if num_decodes == 0:
            return self._prefill_chunk
        bound = self._delay_steps * self._step_seconds(num_decodes) / self._feedback.correction

        def is_beyond_bound(num_tokens: int) -> bool:
            return self._added(num_decodes=num_decodes, num_tokens=num_tokens, context=context) > bound

        return max(1, bisect_left(range(1, self._prefill_chunk + 1), True, key=is_beyond_bound))

    def note_step(self, *, num_decodes: int, num_tokens: int, context: int, seconds: float) -> None:
        """What an uncontended step took that had decoding sequences, and no or some prompt tokens beside them."""
        if num_tokens == 0:
            self._feedback.note_decodes(num_decodes, seconds, expected=self._steps.seconds(num_decodes))
            return
        step = self._step_seconds(num_decodes)
        added = self._added(num_decodes=num_decodes, num_tokens=num_tokens, context=context)
        self._feedback.note_added(seconds - step, expected=added, step=step)

    def _step_seconds(self, num_decodes: int) -> float:
        return self._feedback.decode_seconds(num_decodes) or self._steps.seconds(num_decodes)

    def _added(self, *, num_decodes: int, num_tokens: int, context: int) -> float:
        """Expected seconds. Never quite nothing, however flat the profile is: nothing could not be corrected."""
        added = self._steps.added(num_decodes=num_decodes, num_tokens=num_tokens, context=context)
        return added + LEAST_TOKEN_STEPS * num_tokens * self._step_seconds(num_decodes)


def chunk_limits(profile: Profile, *, prefill_chunk: int, delay_steps: float) -> ChunkLimits | None:
    """From the start-up profile; None where it has fewer than two cells: nothing is known, and nothing limited."""
    curve = tuple(_curve(profile.cells))
    if len(curve) < 2:
        return None
    steps = ProfiledSteps(curve=curve)
    context = profile.cells[0].context
    costs = [
        (_mean_seconds(cell) - _seconds(curve, cell.rows)) / (cell.rows * (cell.context - context))
        for cell in profile.long_context
        if cell.context > context
    ]
    if costs:
        steps = replace(steps, context=context, attention_seconds=max(0.0, *costs))
    return ChunkLimits(steps, prefill_chunk=prefill_chunk, delay_steps=delay_steps)


def _curve(cells: Iterable[StepCell]) -> list[tuple[int, float]]:
    """(rows, seconds) in ascending order of both. A cell with contended samples only stands with its fastest one."""
    fastest: dict[int, float] = {}
    for cell in cells:
        seconds = _mean_seconds(cell)
        fastest[cell.rows] = min(seconds, fastest.get(cell.rows, seconds))
    rows = sorted(fastest)
    return list(zip(rows, accumulate((fastest[count] for count in rows), max), strict=True))


def _mean_seconds(cell: StepCell) -> float:
    return cell.seconds / cell.steps if cell.steps else cell.seconds


def _seconds(curve: Sequence[tuple[int, float]], rows: int) -> float:
    (first, first_seconds), (last, last_seconds) = curve[0], curve[-1]
    if rows >= last:
        return last_seconds + (rows - last) * (last_seconds - first_seconds) / (last - first)
    index = max(1, bisect_left(curve, rows, key=lambda point: point[0]))
    (low, low_seconds), (high, high_seconds) = curve[index - 1], curve[index]
    return low_seconds + max(0, rows - low) * (high_seconds - low_seconds) / (high - low)
