"""A server in a process of its own: started on free ports, known by what it logs, always ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_LISTENING = re.compile(r"listening: serving [\d.]+:(\d+), control [\d.]+:(\d+)")
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    process: subprocess.Popen[bytes]
    log: Path
    url: str
    control_url: str
    ready_seconds: float

    def terminate(self, *, timeout_seconds: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_seconds)


@contextmanager
def running(
    command: Sequence[str], log: Path, *, patience_seconds: float = 240.0, **environment: str
) -> Iterator[ServerProcess]:
    """The process once it is ready. Raises AssertionError with its log when it ends before."""
    began = time.monotonic()
    arguments = [sys.executable, "-m", *command, "--port", "0", "--control-port", "0"]
    with log.open("wb") as sink:
        process = subprocess.Popen(arguments, stdout=sink, stderr=sink, env={**os.environ, **environment})
    try:
        ports = None
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < began + patience_seconds, log.read_text()
            ports = ports or _LISTENING.search(log.read_text())
            if ports and _is_ready(int(ports[2])):
                break
            time.sleep(POLL_SECONDS)
        yield ServerProcess(
            process=process,
            log=log,
            url=f"http://127.0.0.1:{ports[1]}",
            control_url=f"http://127.0.0.1:{ports[2]}",
            ready_seconds=time.monotonic() - began,
        )
    finally:
        process.kill()
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
