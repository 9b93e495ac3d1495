"""Launch constants of the Triton kernels by measurement on the card that is here.

    make gpu-sweep GPU_SWEEP="--output FOLDER"        (or: PYTHONPATH=engine:operator python3 -m bench.gpu.sweep ...)

Needs torch, triton and numpy, no network and no weights, about 30 GB of the card's memory. First as many processes as
there are cores compile what will be timed, into Triton's cache, which all share. Then each subject has the card to
itself, in a process of its own: FOLDER/SUBJECT.jsonl gets a line with every figure, sweep.md is written anew every few
seconds. A candidate that can't be launched, or is wrong, is a line too; one that costs the device's context costs
its process, and the next one goes on behind it. --only SUBJECT runs one again and leaves the others' lines. Exits with
1 when a subject did not come to its end, with 2 when there is no CUDA device. --rehearse runs it all in small on the
CPU, in Triton's interpreter.
Decides when what is measured, and how long it may take; what each subject measures is its module's. Sets no constant:
the kernels' files do, and kernels/DESIGN.md says why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.gpu import sweep_attention, sweep_products, sweep_report, sweep_sampling, sweep_steps
from bench.gpu.device_time import warm_up
from bench.gpu.parts import PARTS
from bench.gpu.records import Card, Note
from bench.gpu.sweep_grid import FULL, SMALL, Grid
from bench.gpu.sweep_records import Lines, read
from bench.gpu.sweep_timing import Stopwatch

NO_DEVICE = 2
MINUTES = 9.0
MOST_COMPILERS = 16  # each has a context on the card, about half a GB
COMPILING_SECONDS = 200.0
MOST_LOST_CONTEXTS = 4  # of a subject
WRITE_SECONDS = 5.0  # between two versions of sweep.md
Command = Callable[[Sequence[str]], Sequence[str]]  # of a process with these options


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """`seconds`: most that it may take, whatever hangs."""

    title: str
    run: Callable[[Grid, Stopwatch], None]
    preparations: Callable[[Grid, torch.device], Sequence[Callable[[], object]]]
    seconds: float
    legend: str = ""
    num_best: int = 0


_ALL = (  # the shortest first: what is left to the end of the time is cut there
    Subject(title="sampling", run=sweep_sampling.run, preparations=sweep_sampling.preparations, seconds=60),
    Subject(title="steps", run=sweep_steps.run, preparations=sweep_steps.preparations, seconds=150),
    Subject(
        title="attention",
        run=sweep_attention.run,
        preparations=sweep_attention.preparations,
        seconds=200,
        legend=sweep_attention.LEGEND,
        num_best=6,
    ),
    Subject(
        title="products",
        run=sweep_products.run,
        preparations=sweep_products.preparations,
        seconds=300,
        legend=sweep_products.LEGEND,
        num_best=4,
    ),
)
SUBJECTS: Mapping[str, Subject] = {subject.title: subject for subject in _ALL}


def compile_share(subjects: Iterable[Subject], grid: Grid, device: torch.device, *, index: int, count: int) -> None:
    """Every `count`-th preparation from `index` on. What fails here is timed, and so reported, later."""
    tasks = [task for subject in subjects for task in subject.preparations(grid, device)]
    for task in tasks[index::count]:
        with contextlib.suppress(Exception):
            task()
        if device.type == "cuda":
            torch.cuda.synchronize()  # raises where the context is lost: the rest would fail too


def measure(subject: Subject, grid: Grid, device: torch.device, lines: Lines, *, repeats: int) -> None:
    """Everything of a subject that `lines` hasn't yet. Raises what the device raises when its context is lost."""
    if not any(isinstance(record, (Card, Note)) for record in lines.records):
        for record in PARTS["Card"].run(grid.scale, device):
            if isinstance(record, (Card, Note)):
                lines.add(record)
    warm_up(device)
    subject.run(grid, Stopwatch(lines, device=device, repeats=repeats))


class Sweep:
    """The processes of a sweep, in their order and within their time."""

    def __init__(self, output: Path, *, command: Command, seconds: float) -> None:
        self._output, self._command = output, command
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds

    def run(self, subjects: Sequence[Subject], *, num_compilers: int) -> list[str]:
        """Titles of the subjects that did not come to their end."""
        for subject in subjects:
            self._path(subject).unlink(missing_ok=True)
        self._compile(num_compilers)
        unfinished = [subject.title for subject in subjects if not self._measure(subject)]
        self._write()
        return unfinished

    def _compile(self, count: int) -> None:
        end = min(self._deadline, time.monotonic() + COMPILING_SECONDS)
        shares = [["--share", str(index), str(count)] for index in range(count)]
        statuses = self._statuses(shares, end=end)
        self._say(f"compiled by {count} processes, of which {count - statuses.count(0)} ended badly")

    def _measure(self, subject: Subject) -> bool:
        """Whether it came to its end, be it in several processes."""
        end = min(self._deadline, time.monotonic() + subject.seconds)
        for _ in range(1 + MOST_LOST_CONTEXTS):
            before = len(read(self._path(subject)))
            (status,) = self._statuses([["--subject", subject.title]], end=end)
            found = len(read(self._path(subject)))
            self._say(f"{subject.title}: {found} lines, exit status {status}")
            if status == 0:
                return True
            if found == before or time.monotonic() >= end:  # the next would end at the same place
                break
        return False

    def _statuses(self, options: Sequence[Sequence[str]], *, end: float) -> list[int]:
        """Of processes side by side, which are killed when their time is over."""
        processes = [subprocess.Popen(self._command(own), stdin=subprocess.DEVNULL) for own in options]
        try:
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                self._write()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    next(process for process in processes if process.returncode is None).wait(
                        max(0.0, min(WRITE_SECONDS, end - time.monotonic()))
                    )
        finally:
            for process in processes:
                process.kill()
        return [process.wait() for process in processes]

    def _write(self) -> None:
        """The tables of every subject that has lines, of an earlier sweep too; whole at any moment."""
        sections = [
            sweep_report.section(
                subject.title, read(self._path(subject)), legend=subject.legend, num_best=subject.num_best
            )
            for subject in SUBJECTS.values()
            if self._path(subject).exists()
        ]
        temporary = self._output / "sweep.tmp"
        temporary.write_text("\n".join(["# Sweep of launch constants\n", *sections]))
        temporary.replace(self._output / "sweep.md")

    def _path(self, subject: Subject) -> Path:
        return self._output / f"{subject.title}.jsonl"

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/gpu-sweep"), help="folder of the lines and tables")
    parser.add_argument("--only", action="append", default=[], choices=SUBJECTS, help="this one (may be repeated)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="most that it all may take")
    parser.add_argument("--rehearse", action="store_true", help="in small on the CPU, in Triton's interpreter")
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    if not chosen.rehearse and not torch.cuda.is_available():
        print("gpu-sweep: no CUDA device is here, so nothing was measured and nothing was written", file=sys.stderr)
        return NO_DEVICE
    grid = SMALL if chosen.rehearse else FULL
    device = torch.device("cpu") if chosen.rehearse else torch.device("cuda", 0)
    subjects = [SUBJECTS[title] for title in chosen.only] or list(SUBJECTS.values())
    if chosen.share:
        compile_share(subjects, grid, device, index=chosen.share[0], count=chosen.share[1])
        return 0
    if chosen.subject:
        lines = Lines(chosen.output / f"{chosen.subject}.jsonl")
        measure(SUBJECTS[chosen.subject], grid, device, lines, repeats=grid.scale.repeats)
        return 0
    chosen.output.mkdir(parents=True, exist_ok=True)
    options = ["--output", str(chosen.output), *(["--rehearse"] if chosen.rehearse else [])]
    options += [word for subject in subjects for word in ("--only", subject.title)]
    interpreter = ["env", "TRITON_INTERPRET=1", sys.executable] if chosen.rehearse else [sys.executable]
    sweep = Sweep(
        chosen.output,
        command=lambda own: [*interpreter, "-m", "bench.gpu.sweep", *options, *own],
        seconds=chosen.minutes * 60,
    )
    num_compilers = 1 if chosen.rehearse else min(MOST_COMPILERS, os.cpu_count() or 1)
    unfinished = sweep.run(subjects, num_compilers=num_compilers)
    verdict = f"NOT FINISHED: {', '.join(unfinished)}" if unfinished else "ok"
    print(f"gpu-sweep: {verdict}\n{chosen.output / 'sweep.md'}")
    return 1 if unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
