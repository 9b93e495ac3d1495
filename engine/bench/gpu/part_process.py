"""A part of the GPU check in a process of its own: an error that kills the device's context costs no other part.

Decides how a part's records come back while it runs, and when it has had its time. Knows no device and no figures.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.gpu.records import Record, from_line

State = Literal["running", "ok", "failed", "out of time", "not run"]
POLL_SECONDS = 0.1
LAST_LINES = 25  # of what a part that failed wrote to its standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part. `error`: the end of what it wrote to standard error, if it failed."""

    title: str
    state: State
    seconds: float
    records: tuple[Record, ...] = ()
    error: str = ""


class PartProcess:
    """A running part. It writes a record a line to `folder`/records; what is there counts, come what may."""

    def __init__(self, title: str, command: Sequence[str], *, folder: Path, seconds: float) -> None:
        """`command` is given the path of its records as a last argument. `seconds`: most that it may take."""
        folder.mkdir(parents=True)
        self.title = title
        self._records_path, self._log_path = folder / "records", folder / "log"
        self._records_path.touch()
        self._records: list[Record] = []
        self._offset = 0
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds
        with self._log_path.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(self._records_path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def poll(self) -> tuple[list[Record], Outcome | None]:
        """Records since the last call, and what became of the part if it has ended. Ends it when its time is over."""
        code = self._process.poll()
        is_late = code is None and time.monotonic() > self._deadline
        if is_late:
            self.kill()
        new = self._read()
        if code is None and not is_late:
            return new, None
        state: State = "out of time" if is_late else "ok" if code == 0 else "failed"
        lines = self._log_path.read_text(errors="replace").splitlines()
        said = "\n".join(lines[-LAST_LINES:]) or "nothing was said"
        error = "" if state == "ok" else said if is_late else f"{said}\nexit status {code}"
        return new, Outcome(
            title=self.title,
            state=state,
            seconds=time.monotonic() - self._begin,
            records=tuple(self._records),
            error=error,
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> list[Record]:
        with self._records_path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [from_line(line) for line in whole.decode().splitlines()]
        self._records += new
        return new


def run_together(
    processes: Sequence[PartProcess], *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, Record | Outcome]]:
    """Titles with their records as they come, and with their outcomes. All processes have ended when it is closed."""
    running = list(processes)
    try:
        while running:
            for process in tuple(running):
                new, outcome = process.poll()
                yield from ((process.title, record) for record in new)
                if outcome is not None:
                    running.remove(process)
                    yield process.title, outcome
            sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.kill()
