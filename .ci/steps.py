"""Runs the project's checks and tests one after another, all of them whatever fails, and sums up.

It decides order and what counts as failed; it knows nothing of what is tested. Building the cluster's programs takes
minutes where Go's cache is cold, so it begins at once, at the lowest priority, while checks and unit tests run.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "out" / "test"
BIN = ROOT / ".venv" / "bin"
PYTHON = str(BIN / "python")
CLUSTER = (PYTHON, "-m", "cluster")
PYTEST = (PYTHON, "-m", "pytest", "--color=no")

STEPS: dict[str, tuple[str, ...]] = {
    "lint": (str(BIN / "ruff"), "check", "."),
    "format": (str(BIN / "ruff"), "format", "--check", "."),
    "types": (str(BIN / "mypy"),),
    "imports": (str(BIN / "lint-imports"),),
    "unit": (*PYTEST, "tests", "-m", "not apiserver and not e2e"),
    "programs": (*CLUSTER, "build"),
    "apiserver": (*PYTEST, "tests", "-m", "apiserver"),
    "images": (*CLUSTER, "images"),
    "e2e": (*PYTEST, "e2e"),
}
NEEDS_PROGRAMS = {"apiserver", "images", "e2e"}
CLOSING = re.compile(r"=+ (.*\d+ (passed|failed|error).*) =+")
FAILURE = re.compile(r"(FAILED|ERROR) \S+::\S+.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step went, with what its output says of it."""

    name: str
    seconds: float
    exit_code: int
    closing: str
    failures: tuple[str, ...]
    log: Path

    @property
    def is_failed(self) -> bool:
        return self.exit_code != 0


def run(name: str) -> Outcome:
    """Run one step; its output goes to the terminal and to a log."""
    print(f"\n=== {name}: {' '.join(STEPS[name])}", flush=True)
    started = time.monotonic()
    log = LOGS / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            STEPS[name],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
        exit_code = process.wait()
    lines = log.read_text().splitlines()
    closings = [match.group(1) for line in lines if (match := CLOSING.search(line))]
    return Outcome(
        name=name,
        seconds=time.monotonic() - started,
        exit_code=exit_code,
        closing=closings[-1] if closings else "",
        failures=tuple(line for line in lines if FAILURE.match(line)),
        log=log,
    )


def environment() -> dict[str, str]:
    """The caller's, with the driver importable and the user's own cluster out of reach."""
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return {**kept, "PYTHONPATH": str(ROOT / "e2e"), "PYTHONUNBUFFERED": "1"}


@contextmanager
def programs_in_background(names: list[str]) -> Iterator[None]:
    """Build the cluster's programs beside the steps that do without them."""
    if not NEEDS_PROGRAMS & set(names) or "programs" not in names:
        yield
        return
    with (LOGS / "programs-background.log").open("w") as log:
        command = ["nice", "-n", "19", *CLUSTER, "build"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def cluster_as_found(names: list[str]) -> Iterator[None]:
    """Take the cluster down afterwards, unless it was up before."""
    if not {"images", "e2e"} & set(names) or is_up():
        yield
        return
    try:
        yield
    finally:
        subprocess.run([*CLUSTER, "down"], cwd=ROOT, env=environment(), check=False)


def is_up() -> bool:
    return (
        subprocess.run([*CLUSTER, "status"], cwd=ROOT, env=environment(), capture_output=True, check=False).returncode
        == 0
    )


def report(outcomes: list[Outcome]) -> int:
    """Print each step's seconds, pytest's closing lines and what failed; 1 if anything did."""
    print("\n=== summary")
    for outcome in outcomes:
        word = f"FAILED ({outcome.exit_code})" if outcome.is_failed else "ok"
        print(f"{outcome.name:<10} {outcome.seconds:7.1f} s  {word:<12} {outcome.closing}")
    failed = [outcome for outcome in outcomes if outcome.is_failed]
    for outcome in failed:
        print(f"\n{outcome.name} failed; its log is {outcome.log}")
        for line in outcome.failures:
            print(f"  {line}")
    print(f"\n{'FAILED: ' + ', '.join(outcome.name for outcome in failed) if failed else 'all passed'}", flush=True)
    return 1 if failed else 0


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"unknown steps {', '.join(unknown)}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in STEPS if name in names] if names else list(STEPS)
    with cluster_as_found(chosen), programs_in_background(chosen):
        outcomes = [run(name) for name in chosen]
    return report(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
