"""What can go wrong with a cluster, said with the value and the place to look."""

from pathlib import Path


class ClusterError(RuntimeError):
    """The cluster, its build or its images failed; the message says what and where its log is."""


class ComponentError(ClusterError):
    """A component did not become ready; carries the tail of its log."""

    def __init__(self, component: str, reason: str, log: Path) -> None:
        super().__init__(f"{component} {reason}; its log is {log}:\n{tail(log)}")
        self.component = component
        self.log = log


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented; a remark when there is none."""
    if not log.exists():
        return "    (no log was written)"
    last = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(f"    {line[:400]}" for line in last) or "    (the log is empty)"
