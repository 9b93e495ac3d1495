"""An engine under test as a process: started, asked, at rest while others are measured, ended with its children.

An idle engine is stopped by signal, because some of them spin for work: what isn't being measured takes no processor
time. Decides nothing about what is asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.protocol import Answer, Hello, Task, WorkerError, decode_answer, decode_hello, encode_task

END_SECONDS = 5.0


class WorkerProcess:
    """One worker of `peers/`. Use it as a context: leaving it ends the process group."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self._log_path = log
        self._log = log.open("w")
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def hello(self, *, timeout_seconds: float) -> Hello:
        """When the model is loaded. Raises WorkerError with the log's path. The worker is at rest afterwards."""
        hello = decode_hello(self._line(timeout_seconds))
        self._signal(signal.SIGSTOP)
        return hello

    def ask(self, task: Task, *, timeout_seconds: float) -> Answer:
        """Raises WorkerError. The worker runs for this task only."""
        with self._awake():
            stdin = self._process.stdin
            assert stdin is not None
            try:
                stdin.write(encode_task(task) + "\n")
                stdin.flush()
            except OSError as error:
                raise WorkerError(f"the worker is gone ({error}); its log: {self._log_path}") from error
            return decode_answer(self._line(timeout_seconds))

    def end(self) -> None:
        """Whatever state it is in."""
        self._signal(signal.SIGCONT)
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._signal(signal.SIGKILL)  # children that outlived it too
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _line(self, timeout_seconds: float) -> str:
        """The next line of the worker. One that doesn't come ends the worker: its pipe would hold a late answer."""
        stdout = self._process.stdout
        assert stdout is not None
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._signal(signal.SIGKILL)

        timer = threading.Timer(timeout_seconds, give_up)
        timer.start()
        try:
            line = stdout.readline()
        finally:
            timer.cancel()
        if line:
            return line
        why = f"no answer within {timeout_seconds:.0f} s" if is_late.is_set() else "the worker ended"
        raise WorkerError(f"{why}; its log: {self._log_path}")

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # the group is gone
            os.killpg(self._process.pid, number)
