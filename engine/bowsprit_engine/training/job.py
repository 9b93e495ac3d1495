"""A training run as a process: its progress port, its end, and the result that the operator reads.

Decides how every way to end becomes one TrainingResult of at most 4 KiB. The run itself is run.py's; the engine never
talks to Kubernetes, so the result is what stands in the termination message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.server.progress import progress_port
from bowsprit_engine.training.deadline import Deadline
from bowsprit_engine.training.progress import Tracker
from bowsprit_engine.training.run import run as run_training
from bowsprit_policy.wire import TrainingResult

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = 4096  # what Kubernetes keeps of a termination message
MAX_MESSAGE_CHARACTERS = 1500
MAX_SHORT_CHARACTERS = 300  # of a message that doesn't fit otherwise


class TerminatedError(BaseException):
    """SIGTERM came. Not an Exception: nothing on the way may take it for a failure of its own."""


def run(settings: TrainSettings) -> int:
    """The whole run; 0 once a candidate is evaluated, whatever the figures say, 1 when it couldn't be."""
    started = time.monotonic()
    deadline = Deadline(elapsed=lambda: time.monotonic() - started, seconds=settings.deadline_seconds)
    tracker = Tracker()
    try:
        with _sigterm_raises(), progress_port(settings, tracker.current):
            result = run_training(settings, tracker=tracker, deadline=deadline)
    except TerminatedError:
        phase = tracker.current().phase
        result = _failed(settings, deadline, "Terminated", f"SIGTERM after {deadline.elapsed():.0f} s, while {phase}")
    except WorldError as error:
        result = _failed(settings, deadline, error.reason, str(error))
    except CallerError as error:
        result = _failed(settings, deadline, "InvalidSettings", str(error))
    except OSError as error:
        result = _failed(settings, deadline, "StorageFailed", f"while {tracker.current().phase}: {error}")
    except MemoryError as error:
        result = _failed(settings, deadline, "OutOfMemory", f"while {tracker.current().phase}: {error}")
    except Exception as error:
        logger.exception("the run failed")
        message = f"while {tracker.current().phase}: {type(error).__name__}: {error}"
        result = _failed(settings, deadline, "InternalError", message)
    write_result(settings.termination_log, result)
    logger.log(logging.INFO if result.succeeded else logging.ERROR, "%s: %s", result.reason, result.message)
    return 0 if result.succeeded else 1


def write_result(path: Path | None, result: TrainingResult) -> None:
    """To the file in one write, or to standard output.

    Kubernetes mounts the termination log as a single file: it can't be renamed over, so a rename is tried only
    elsewhere. One write of 4 KiB is not seen in halves by a kubelet that reads after the container ended.
    """
    text = result.model_dump_json(exclude_none=True)
    if len(text.encode()) > MAX_RESULT_BYTES:
        text = result.model_copy(update={"message": result.message[:MAX_SHORT_CHARACTERS]}).model_dump_json(
            exclude_none=True
        )
    if path is None:
        sys.stdout.write(text + "\n")
        return
    if path.parent == Path("/dev"):
        path.write_text(text)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


def _failed(settings: TrainSettings, deadline: Deadline, reason: str, message: str) -> TrainingResult:
    return TrainingResult(
        succeeded=False,
        reason=reason,
        message=message[:MAX_MESSAGE_CHARACTERS],
        drafter=settings.drafter,
        revision=settings.revision,
        parent=settings.parent_revision,
        seconds=round(deadline.elapsed(), 1),
    )


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
