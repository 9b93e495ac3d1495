"""A stepper whose steps and drafter take the seconds that are stated, whatever they really take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from bowsprit_engine.core.runner import StepBatch
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_policy.wire import DrafterCap, DrafterType, PolicyTable, StepCell, TableRow
from core.stepping import Stepping
from fakes import FakeDrafter

CAP = 4


def step_seconds(rows: int) -> float:
    """Of the stated machine."""
    return 0.003 + 0.0002 * rows


class StatedTime:
    """One stream and one head, by its drafts and how long asking it takes, under a table that lets it draft."""

    def __init__(self, draft: Callable[[DraftContext], Sequence[int]], *, seconds_to_ask: float) -> None:
        self.now = 0.0

        def ask(context: DraftContext) -> Sequence[int]:
            self.now += seconds_to_ask
            return draft(context)

        def forward(batch: StepBatch) -> None:
            self.now += step_seconds(batch.token_ids.numel())

        cells = [
            StepCell(batch=1, rows=rows, context=256, steps=1, seconds=step_seconds(rows), tokens=1)
            for rows in (1, 1 + CAP, 9)
        ]
        self.head = FakeDrafter(name="head", type=DrafterType.HEAD, draft=ask)
        self.stepping = Stepping(drafters=[self.head], draft_tokens="auto", cells=cells, max_model_len=1024)
        self.stepping.runner.before_forward = forward
        row = TableRow(drafters=(DrafterCap(name="head", draft_tokens=CAP),))
        self.stepping.policy.set_table(PolicyTable(revision=1, table=(row,)))

    @contextmanager
    def running(self) -> Iterator[Stepping]:
        """Within, clocks tell what was stated."""
        with patch.object(time, "perf_counter", lambda: self.now), patch.object(time, "process_time", lambda: self.now):
            yield self.stepping
