"""Tables as values: which caps hold at a batch, and a table from the caps of each batch bucket.

Refuses to know why caps are what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bowsprit_policy.wire import DrafterCap, TableRow

NamedCaps = Mapping[str, int]


def caps_at(table: Sequence[TableRow], batch: int) -> dict[str, int]:
    """The caps in force at `batch` sequences, by drafter."""
    for row in table:
        if row.max_batch_size is None or batch <= row.max_batch_size:
            return {cap.name: cap.draft_tokens for cap in row.drafters}
    return {}


def composed(rows: Sequence[tuple[int, NamedCaps]]) -> tuple[TableRow, ...]:
    """A table from (batch bucket, caps) ascending; neighbours with equal caps become one row, the last is unbounded."""
    table: list[TableRow] = []
    for position, (batch, caps) in enumerate(rows):
        drafters = tuple(DrafterCap(name=name, draft_tokens=k) for name, k in caps.items())
        if table and table[-1].drafters == drafters:
            table.pop()
        is_last = position == len(rows) - 1
        table.append(TableRow(max_batch_size=None if is_last else batch, drafters=drafters))
    return tuple(table)


def text(caps: NamedCaps) -> str:
    """Short words for status and messages: "4" with one drafter, "ngram 4, head 2" with several, "0" with none."""
    if len(caps) <= 1:
        return str(next(iter(caps.values()), 0))
    return ", ".join(f"{name} {k}" for name, k in caps.items())


def change_text(before: NamedCaps, after: NamedCaps) -> str:
    """What moves: "K 4 → 6", or "ngram 4 → 6, head 2 → 3" (only those that do)."""
    if len(before) <= 1 and len(after) <= 1:
        return f"K {text(before)} → {text(after)}"
    moved = [
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in dict.fromkeys([*after, *before])
        if before.get(name) != after.get(name)
    ]
    return ", ".join(moved)
