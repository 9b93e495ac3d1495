"""The estimated speed-up: against the same batch and context without drafts, or no figure at all."""

from __future__ import annotations

import pytest

from bowsprit_engine.server.speedup import estimated_speedups
from builders import step_cell


def test_tokens_are_priced_at_the_steps_without_drafts() -> None:
    """100 plain steps of 10 ms, 100 drafted ones of 12 ms with 3 tokens each: 4 s of work in 2.2 s."""
    cells = [step_cell(batch=1, rows=1), step_cell(batch=1, rows=5, milliseconds=12.0, tokens=300)]
    assert estimated_speedups(cells) == {1: pytest.approx(4.0 / 2.2)}


def test_without_enough_plain_steps_there_is_no_figure() -> None:
    """Nor from those of another context."""
    few = [step_cell(rows=1, steps=7), step_cell(rows=5, tokens=300)]
    elsewhere = [step_cell(rows=1, context=1024), step_cell(rows=5, tokens=300)]
    assert estimated_speedups(few) == {}
    assert estimated_speedups(elsewhere) == {1: pytest.approx(1.0)}
