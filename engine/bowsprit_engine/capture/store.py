"""The folder of shards behind a capture URI: list, read, put, delete. A shard appears whole or not at all.

Knows names and times of shards, and refuses to know their content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import obstore
from obstore.exceptions import BaseError
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
    """Shards at a file:// or pvc:// URI. Every method raises OSError when the folder can't be used."""

    def __init__(self, uri: str, *, is_writable: bool = False) -> None:
        """A writable folder is made. Raises ModelError for a URI that names no place."""
        with _os_errors():
            self._store = LocalStore(resolve_uri(uri), mkdir=is_writable)

    def shards(self) -> list[Shard]:
        """Oldest first."""
        with _os_errors():
            entries = obstore.list(self._store).collect()
        found = [entry for entry in entries if entry["path"].endswith(SUFFIX)]
        shards = [Shard(name=e["path"], time=e["last_modified"], bytes=e["size"]) for e in found]
        return sorted(shards, key=lambda shard: (shard.time, shard.name))

    def read(self, name: str) -> bytes:
        with _os_errors():
            return bytes(obstore.get(self._store, name).bytes())

    def put(self, name: str, content: bytes) -> None:
        """Under a temporary name, then renamed."""
        with _os_errors():
            obstore.put(self._store, name, content)

    def delete(self, name: str) -> None:
        """One that is gone already is fine: another pod was faster."""
        try:
            with _os_errors():
                obstore.delete(self._store, name)
        except FileNotFoundError:
            return


@contextmanager
def _os_errors() -> Iterator[None]:
    """obstore raises some failures of a local folder as errors of its own; here all are OSErrors of one line."""
    try:
        yield
    except BaseError as error:
        if isinstance(error, OSError):
            raise
        raise OSError(str(error).splitlines()[0]) from error
