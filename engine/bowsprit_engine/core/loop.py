"""What the engine's thread does, over and over: obey what came, then run one step; sleep while there is nothing to do.

Decides what happens when a step raises, and in which order an end ends what is left. Refuses to know what a step is.
"""

from __future__ import annotations

import logging

from bowsprit_engine.core.inbox import Inbox, Mail
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.step import Stepper

logger = logging.getLogger(__name__)

# One bad request must not end a pod, even when its client retries; a device that is gone fails every step.
MAX_FAILED_STEPS_IN_A_ROW = 16


class EngineLoop:
    """One thread's. Other threads reach it by the inbox."""

    def __init__(self, *, inbox: Inbox, scheduler: Scheduler, stepper: Stepper) -> None:
        self._inbox = inbox
        self._scheduler = scheduler
        self._stepper = stepper
        self._num_failed_in_a_row = 0

    def advance(self) -> bool:
        """Once around; False when the engine should end. Raises what a step raised after too many in a row did."""
        mail = self._inbox.take(wait=not self._scheduler.has_work, num_inside=len(self._stepper.sequences))
        self._obey(mail)
        if mail.is_aborted:
            self._stepper.sequences.abort_all()
        is_open = self._scheduler.has_work or not mail.is_closed
        if self._scheduler.has_work:
            self._step()
        return is_open

    def end(self) -> None:
        """Nobody may wait for ever: end whatever is left, and answer what came last."""
        self._inbox.close(abort=True)
        self._obey(self._inbox.take(wait=False, num_inside=0))
        self._stepper.sequences.abort_all()

    def _obey(self, mail: Mail) -> None:
        for request in mail.requests:
            self._stepper.sequences.submit(request)
        for request_id in mail.cancelled:
            self._stepper.sequences.cancel(request_id)
        for function, future in mail.calls:
            try:
                function()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _step(self) -> None:
        try:
            self._stepper.step()
        except Exception as error:
            self._num_failed_in_a_row += 1
            logger.exception("a step failed; its %d requests end", self._scheduler.num_running)
            self._stepper.sequences.fail_running(f"the step failed: {type(error).__name__}: {error}")
            if self._num_failed_in_a_row >= MAX_FAILED_STEPS_IN_A_ROW:
                raise
        else:
            self._num_failed_in_a_row = 0
