"""Which table of draft lengths is in force: the built-in one, the operator's, or the row of a fixed mode.

Decides what may replace it: a newer revision only, and none beyond what every reader can hold. Refuses to know how
drafts fare (policy.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_engine.errors import CallerError, StalePolicyError
from bowsprit_policy.wire import COUNT_BASED, DrafterCap, DrafterType, PolicyTable, TableRow

logger = logging.getLogger(__name__)

SpeculationMode = Literal["auto", "off"] | int

MOST_REVISION = 2**53 - 1  # exact in JSON's and Prometheus' numbers; the operator counts on from what pods report


class TableInForce:
    """The table that steps obey. May be read and replaced by any thread."""

    def __init__(
        self, *, mode: SpeculationMode, drafter_types: Mapping[str, DrafterType], draft_tokens_max: int
    ) -> None:
        self._mode = mode
        self._names = tuple(drafter_types)
        self._max = draft_tokens_max
        self._table = PolicyTable(revision=0, table=first_table(drafter_types, draft_tokens_max))

    @property
    def in_force(self) -> PolicyTable:
        """Rows: the table's in mode auto, else the mode's own. Revision: of what was pushed last, 0 before that."""
        table = self._table
        return table if self._mode == "auto" else PolicyTable(revision=table.revision, table=(self._row_of_mode(),))

    def push(self, table: PolicyTable) -> None:
        """Put a newer one in force. Raises StalePolicyError for an older one, CallerError for a malformed one."""
        _check(table)
        if table.revision < self._table.revision:
            raise StalePolicyError(stored=self._table.revision, offered=table.revision)
        if table.revision > self._table.revision:
            unknown = sorted({cap.name for row in table.table for cap in row.drafters} - set(self._names))
            logger.info("policy revision %d in force%s", table.revision, f", without {unknown}" if unknown else "")
            self._table = table

    def caps(self, batch: int) -> dict[str, int]:
        """Most draft tokens of a sequence, by drafter, in a step of `batch` decoding sequences."""
        row = next(row for row in self.in_force.table if row.max_batch_size is None or batch <= row.max_batch_size)
        return {cap.name: min(cap.draft_tokens, self._max) for cap in row.drafters if cap.name in self._names}

    def _row_of_mode(self) -> TableRow:
        draft_tokens = min(self._mode, self._max) if isinstance(self._mode, int) else 0
        return TableRow(drafters=tuple(DrafterCap(name=name, draft_tokens=draft_tokens) for name in self._names))


def first_table(types: Mapping[str, DrafterType], draft_tokens_max: int) -> tuple[TableRow, ...]:
    """The table before any push: look-up only, fewer tokens as the batch grows; a head waits for the operator."""
    names = [name for name, drafter_type in types.items() if drafter_type in COUNT_BASED]

    def row(max_batch_size: int | None, draft_tokens: int) -> TableRow:
        caps = tuple(DrafterCap(name=name, draft_tokens=min(draft_tokens, draft_tokens_max)) for name in names)
        return TableRow(max_batch_size=max_batch_size, drafters=caps)

    return (row(2, 8), row(8, 4), row(None, 0))


def narrowed(caps: Mapping[str, int], request: SpeculationParams, *, room: int) -> dict[str, int]:
    """The caps for one sequence: within its own wishes and the room left before its length limits."""
    if not request.enabled:
        return {}
    limit = room if request.max_draft_tokens is None else min(room, request.max_draft_tokens)
    return {
        name: min(cap, limit)
        for name, cap in caps.items()
        if min(cap, limit) > 0 and (request.drafter is None or request.drafter == name)
    }


def _check(table: PolicyTable) -> None:
    if table.revision > MOST_REVISION:
        raise CallerError(f"policy revision {table.revision}, the limit is {MOST_REVISION}", param="revision")
    limits = [row.max_batch_size for row in table.table]
    if not limits or limits[-1] is not None:
        raise CallerError("the last row of a policy table must be unbounded (no maxBatchSize)", param="table")
    bounded = [limit for limit in limits if limit is not None]
    if len(bounded) != len(limits) - 1 or any(low >= high for low, high in pairwise(bounded)):
        raise CallerError(f"a policy table's rows must ascend in maxBatchSize, these are {limits}", param="table")
    for row in table.table:
        names = [cap.name for cap in row.drafters]
        if len(set(names)) != len(names):
            raise CallerError(f"a row of a policy table names each drafter once, this one {names}", param="table")
