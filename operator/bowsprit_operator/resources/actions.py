"""What a plan may ask of the cluster. world/cluster.py carries these out; planning only makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bowsprit_operator.resources.kinds import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of a whole child. `reason` says what differs."""

    kind: Kind
    manifest: dict[str, Any]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete one child, only if it is still the object with this uid."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    reason: str


Action = Apply | Delete
