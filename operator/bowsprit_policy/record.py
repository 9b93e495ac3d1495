"""The record of a decision: one line of JSON with everything that it was taken from, so that it can be taken again.

Refuses to know what is in it (replay.py reads it) and where lines are written.
"""

from __future__ import annotations

from pydantic_core import to_json

from bowsprit_policy.decision import DecisionKind


def line(*, kind: DecisionKind, at: float, inputs: object, outcome: object) -> str:
    """One line of JSON, without the line break. `inputs` and `outcome` are the deciding module's dataclasses."""
    return to_json({"kind": kind, "at": at, "inputs": inputs, "outcome": outcome}, by_alias=True).decode()


def kept(ring: tuple[str, ...], lines: tuple[str, ...], *, size: int) -> tuple[str, ...]:
    """A ring buffer as a value: the newest `size` lines, oldest first."""
    return (*ring, *lines)[-size:]
