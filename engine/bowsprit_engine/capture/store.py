"""The folder of shards behind a capture URI: list, read, put, delete. A shard appears whole or not at all.

Knows names and times of shards, and refuses to know their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import obstore
from obstore.store import LocalStore

from bowsprit_engine.capture.schema import SUFFIX
from bowsprit_engine.models.uri import resolve_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of the folder."""

    name: str
    time: datetime
    bytes: int


class ShardStore:
    """Shards at a file:// or pvc:// URI. Every method raises OSError when the folder can't be used.

    The folder is made by `is_writable`; without it a missing folder is an OSError too.
    """

    def __init__(self, uri: str, *, is_writable: bool = False) -> None:
        """Raises ModelError for a URI that names no place, OSError for a place that can't be used."""
        self._store = LocalStore(resolve_uri(uri), mkdir=is_writable)

    def shards(self) -> list[Shard]:
        """Oldest first."""
        found = [entry for entry in obstore.list(self._store).collect() if entry["path"].endswith(SUFFIX)]
        shards = [Shard(name=e["path"], time=e["last_modified"], bytes=e["size"]) for e in found]
        return sorted(shards, key=lambda shard: (shard.time, shard.name))

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self._store, name).bytes())

    def put(self, name: str, content: bytes) -> None:
        """Under a temporary name, then renamed."""
        obstore.put(self._store, name, content)

    def delete(self, name: str) -> None:
        """One that is gone already is fine: another pod was faster."""
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
