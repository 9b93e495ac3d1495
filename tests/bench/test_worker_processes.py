"""Workers as processes: what is said over their pipes, and that they rest while others are measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.protocol import Emission, Hello, Task, WorkerError
from bench.worker_process import WorkerProcess

FAKE = Path(__file__).with_name("fake_worker.py")
ENGINE = Path(__file__).parents[2] / "engine"
ENOUGH_SECONDS = 60.0

TASK = Task(prompts=((5, 6, 7), (8,)), max_tokens=3, temperature=0.5, ignore_eos=False)

Start = Callable[[str], WorkerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def one(behaviour: str) -> WorkerProcess:
        env = os.environ | {"PYTHONPATH": str(ENGINE)}
        worker = WorkerProcess([sys.executable, str(FAKE), behaviour], env=env, log=tmp_path / "worker.log")
        started.append(worker)
        return worker

    yield one
    for worker in started:
        worker.end()


def test_a_worker_says_who_it_is_and_answers_each_task(start: Start) -> None:
    """Prompts, tokens and times arrive as they were sent."""
    worker = start("echoes")
    assert worker.hello(timeout_seconds=ENOUGH_SECONDS) == Hello(version="fake 1.0", settings={"threads": "2"})
    for _ in range(2):
        answer = worker.ask(TASK, timeout_seconds=ENOUGH_SECONDS)
        assert answer.token_ids == ((5, 6, 7), (8,))
        assert answer.emissions[1] == (Emission(seconds=1.0, num_tokens=1),)
        assert answer.seconds == 3.0


def test_what_libraries_print_does_not_mix_with_answers(start: Start, tmp_path: Path) -> None:
    """It is in the log instead, the children's output too."""
    worker = start("prints")
    worker.hello(timeout_seconds=ENOUGH_SECONDS)
    assert worker.ask(TASK, timeout_seconds=ENOUGH_SECONDS).token_ids == ((5, 6, 7), (8,))
    assert "and one of a child" in (tmp_path / "worker.log").read_text()


def test_a_worker_that_cannot_load_says_why(start: Start) -> None:
    """The last line of its traceback is the message."""
    with pytest.raises(WorkerError, match="RuntimeError: no such model"):
        start("fails to load").hello(timeout_seconds=ENOUGH_SECONDS)


def test_a_task_that_fails_says_why(start: Start) -> None:
    """With the value that wasn't accepted."""
    worker = start("fails")
    worker.hello(timeout_seconds=ENOUGH_SECONDS)
    with pytest.raises(WorkerError, match=r"ValueError: temperature 0\.5: not here"):
        worker.ask(TASK, timeout_seconds=ENOUGH_SECONDS)


def test_a_worker_that_dies_is_an_error_that_names_its_log(start: Start, tmp_path: Path) -> None:
    """And so is every later task."""
    worker = start("dies")
    worker.hello(timeout_seconds=ENOUGH_SECONDS)
    for _ in range(2):
        with pytest.raises(WorkerError, match=str(tmp_path / "worker.log")):
            worker.ask(TASK, timeout_seconds=ENOUGH_SECONDS)


def test_a_worker_that_hangs_is_ended(start: Start) -> None:
    """Its late answer must never be read as that of the next task."""
    worker = start("hangs")
    worker.hello(timeout_seconds=ENOUGH_SECONDS)
    with pytest.raises(WorkerError, match="no answer within 0 s"):
        worker.ask(TASK, timeout_seconds=0.2)


def test_an_idle_worker_and_its_children_take_no_processor_time(start: Start) -> None:
    """They are stopped, and gone once the worker is ended."""
    worker = start("has a child")
    child = int(worker.hello(timeout_seconds=ENOUGH_SECONDS).version)
    assert _settled(child, "T") == "T"
    worker.ask(TASK, timeout_seconds=ENOUGH_SECONDS)
    assert _settled(child, "T") == "T"
    worker.end()
    assert _settled(child, "Z", "") in ("Z", "")


TERMINATED = """
import os, sys
from pathlib import Path
from bench.end_signal import leaving_workers_ended
from bench.worker_process import WorkerProcess
command, log = [sys.executable, sys.argv[1], "has a child"], Path(sys.argv[2])
with leaving_workers_ended(), WorkerProcess(command, env=os.environ, log=log) as worker:
    print(worker.hello(timeout_seconds=60).version, flush=True)
    sys.stdin.read()
"""


def test_a_comparison_that_is_terminated_takes_its_workers_along(tmp_path: Path) -> None:
    """Those at rest are stopped and would stay for ever."""
    main = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(FAKE), str(tmp_path / "worker.log")],
        env=os.environ | {"PYTHONPATH": str(ENGINE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert main.stdout is not None
    child = int(main.stdout.readline())
    main.terminate()
    main.communicate(timeout=ENOUGH_SECONDS)
    assert main.returncode == 128 + signal.SIGTERM
    assert _settled(child, "Z", "") in ("Z", "")


def _settled(pid: int, *expected: str) -> str:
    """The state that a process comes to: a signal is taken when the process is next scheduled."""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while (state := _state(pid)) not in expected and time.monotonic() < deadline:
        os.sched_yield()
    return state


def _state(pid: int) -> str:
    """The state letter of /proc, empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
