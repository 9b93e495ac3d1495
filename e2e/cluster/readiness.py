"""Waits until a cluster is ready, telling progress; what never becomes ready is named with the end of its log."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.control import Init
from cluster.errors import ComponentError
from cluster.places import Places
from cluster.progress import say

POLL_SECONDS = 0.05
FIRST_PROCESS = "the first process of the namespaces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Waiting for one cluster, up to one deadline. Every method raises ComponentError when it passes."""

    places: Places
    init: Init
    seconds: float
    deadline: float  # of time.monotonic

    def for_init(self, process: subprocess.Popen[bytes]) -> None:
        """Until the first process answers, after mounts and network."""
        log = self.places.logs / "init.log"
        while not self.init.is_alive():
            if process.poll() is not None:
                raise ComponentError(FIRST_PROCESS, f"exited with {process.returncode}", log)
            if time.monotonic() > self.deadline:
                raise ComponentError(FIRST_PROCESS, f"does not answer after {self.seconds:.0f} s", log)
            time.sleep(POLL_SECONDS)

    def for_components(self, *, is_told: bool) -> None:
        """Until every component that is wanted is ready."""
        told: set[str] = set()
        while True:
            components = self.init.components()
            for part in components:
                if part.state == "failed":
                    raise ComponentError(part.name, f"exited with {part.exit_code} before it was ready", part.log)
                if is_told and part.state == "ready" and part.name not in told:
                    told.add(part.name)
                    say(f"  {part.name:<28} {part.ready_seconds:6.1f} s")
            unready = [part for part in components if part.state not in {"ready", "stopped"}]
            if not unready:
                return
            if time.monotonic() > self.deadline:
                raise ComponentError(unready[0].name, f"is not ready after {self.seconds:.0f} s", unready[0].log)
            time.sleep(POLL_SECONDS)

    def until(self, what: str, component: str, condition: Callable[[], bool]) -> None:
        """Until something holds that a component is to bring about."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() > self.deadline:
                log = self.places.logs / f"{component}.log"
                raise ComponentError(what, f"is not there after {self.seconds:.0f} s", log)
            time.sleep(POLL_SECONDS)
        if time.monotonic() - started > 1:
            say(f"  {what:<28} {time.monotonic() - started:6.1f} s")
