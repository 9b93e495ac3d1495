"""The target's states of a run's requests on a disk: one nameless file, appended once, read a request at a time.

Decides how rows lie there and how much there may be. Refuses to know which requests, in which order they are read, and
where the folder comes from. The file has no name from the moment it is there, so its bytes are free again when the
process ends, in whatever way: nothing has to be cleaned up after a kill. Rows are read into memory of the reader's own
and not mapped: a mapped page counts as the process's memory, and a disk's failure would be a signal, not an error.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from bowsprit_engine.core.memory_budget import MIB, readable
from bowsprit_engine.errors import WorldError

CHECK_EVERY = 64 * MIB  # written: how often the disk is asked whether the rest still fits
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows of one request within a file of states."""

    file: StateFile
    offset: int  # bytes
    num_rows: int
    width: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.width * self.dtype.itemsize

    def read(self) -> Tensor:  # [rows, width]
        """Raises OSError where the disk gives fewer bytes than were written."""
        rows = torch.empty((self.num_rows, self.width), dtype=self.dtype)
        self.file.read_into(rows, self.offset)
        return rows

    def will_read(self) -> None:
        """Let the disk begin: `read` is to come, and until then others compute."""
        self.file.will_read(self.offset, self.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """One request whose states are on the disk; otherwise as `data.RequestFeatures`."""

    prompt_token_ids: tuple[int, ...]
    token_ids: Tensor  # [response] int64
    rows: StoredRows
    arrival: int = 0
    tenant: str = ""

    @property
    def hidden(self) -> Tensor:  # [response, D]
        """Read anew each time."""
        return self.rows.read()

    def will_read(self) -> None:
        self.rows.will_read()


class StateFile:
    """At most `num_bytes` of states in a file without a name in `folder`."""

    def __init__(self, folder: Path, *, num_bytes: int) -> None:
        """Makes the folder. Raises WorldError InsufficientStorage with what is needed and what is free."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._num_bytes = folder, num_bytes
        self._end = 0
        self._check_room()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def append(self, rows: Tensor) -> StoredRows:  # [n, width]
        """Raises WorldError InsufficientStorage when the disk, a quota or a file's limit has no room for this or for
        what is still to come, OSError for a disk that fails, ValueError for more than was announced.
        """
        stored = StoredRows(file=self, offset=self._end, num_rows=rows.shape[0], width=rows.shape[1], dtype=rows.dtype)
        if self._end + stored.num_bytes > self._num_bytes:
            raise ValueError(f"{self._end} + {stored.num_bytes} bytes of states, {self._num_bytes} were announced")
        self._write(_bytes_of(rows.detach().contiguous()))
        if self._end // CHECK_EVERY > stored.offset // CHECK_EVERY:
            self._check_room()
        return stored

    def read_into(self, rows: Tensor, offset: int) -> None:
        """Fills `rows` (contiguous) with what lies at `offset`."""
        content = _bytes_of(rows)
        done = 0
        while done < len(content):
            found = os.preadv(self._file.fileno(), [content[done:]], offset + done)
            if not found:
                raise OSError(f"the file of states ends at byte {offset + done}, {len(content) - done} bytes early")
            done += found

    def will_read(self, offset: int, num_bytes: int) -> None:
        os.posix_fadvise(self._file.fileno(), offset, num_bytes, os.POSIX_FADV_WILLNEED)

    def _write(self, content: memoryview) -> None:
        begin = self._end
        try:
            while self._end - begin < len(content):
                self._end += os.pwrite(self._file.fileno(), content[self._end - begin :], self._end)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise self._refusal(f"{error.strerror} after {readable(self._end)}") from error

    def _check_room(self) -> None:
        """Others write too: what fitted at the beginning may not any more."""
        free = shutil.disk_usage(self._folder).free
        if self._num_bytes - self._end > free:
            raise self._refusal(f"{readable(free)} are free beside the {readable(self._end)} that are written")

    def _refusal(self, why: str) -> WorldError:
        return WorldError(
            f"the target's states take {readable(self._num_bytes)} at {self._folder}: {why}. "
            "--scratch-dir names another place, --scratch-limit takes fewer of the captured tokens",
            reason="InsufficientStorage",
        )


def _bytes_of(rows: Tensor) -> memoryview:
    """The tensor's own memory. numpy knows no bfloat16."""
    return rows.view(torch.uint8).numpy().data.cast("B")
