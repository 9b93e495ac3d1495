"""What the GPU path does on the card that is here: right or wrong, bytes per second, T(n), tokens per second.

    make gpu-check GPU_CHECK="--output FOLDER"        (or: PYTHONPATH=engine:operator python3 -m bench.gpu_check ...)

Needs torch, triton and numpy, no network and no weights: Llama 3.1 8B's shape with random ones, about 30 GB of the
card's memory, under ten minutes; --quick takes three. Where pydantic or llguidance is missing, the engine as a whole
and a head are not checked, which the verdict says: `make gpu-packages` makes .gpu-packages to carry there. Each part
runs in a process of its own and within its own time, so that one that breaks the device costs no other; --only TITLE
runs one again. FOLDER gets report.md, with the card's name, and results.json, both written anew with every record.
Exits with 1 when a check fails or a part breaks or has no time left, with 2 when there is no CUDA device. --rehearse
runs it all in small on the CPU, in Triton's interpreter.
Decides when parts run; what each measures is its module's subject (bench/gpu).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bench.end_signal import leaving_workers_ended
from bench.gpu import report
from bench.gpu.part_process import Outcome, PartProcess, run_together
from bench.gpu.parts import PARTS, Part
from bench.gpu.records import (
    Bandwidth,
    Card,
    Check,
    Decoding,
    EngineRun,
    NotChecked,
    Note,
    PeerSpeed,
    Record,
    StepTime,
    faults,
    to_line,
)
from bench.gpu.scale import FULL, QUICK, SMALL, Scale

NO_DEVICE = 2
MINUTES = 9.0
LEAST_SECONDS = 15.0  # a part that has less isn't begun: importing torch takes as long on a slow disk
RESERVE_SECONDS = 5.0


class GpuCheck:
    """Runs parts until the time is over. `command`: a part's title to its process's command."""

    def __init__(self, *, output: Path, seconds: float, command: Callable[[str], Sequence[str]], title: str) -> None:
        self._output, self._command, self._title = output, command, title
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds
        self._outcomes: dict[str, Outcome] = {}

    @property
    def failed(self) -> list[str]:
        """What is wrong: checks and texts by name, parts that did not end well by title."""
        wrong = [name for outcome in self._outcomes.values() for record in outcome.records for name in faults(record)]
        ended = [
            f"{outcome.title} ({outcome.state})"
            for outcome in self._outcomes.values()
            if outcome.state not in ("ok", "running")
        ]
        return wrong + ended

    @property
    def not_checked(self) -> list[str]:
        """What a package was missing for."""
        found = [record for outcome in self._outcomes.values() for record in outcome.records]
        return [record.name for record in found if isinstance(record, NotChecked)]

    def run(self, parts: Sequence[Part]) -> None:
        """Those that time nothing side by side, then the others in turn."""
        self._run([part for part in parts if not part.is_timed])
        for part in parts:
            if part.is_timed:
                self._run([part])

    def _run(self, parts: Sequence[Part]) -> None:
        left = self._deadline - time.monotonic() - RESERVE_SECONDS
        if left < LEAST_SECONDS:
            for part in parts:
                self._end(Outcome(title=part.title, state="not run", seconds=0.0, error="no time was left"))
            return
        with tempfile.TemporaryDirectory() as folder:
            processes = [
                PartProcess(
                    part.title,
                    self._command(part.title),
                    folder=Path(folder) / str(index),
                    seconds=min(part.seconds, left),
                )
                for index, part in enumerate(parts)
            ]
            for part in parts:
                self._outcomes[part.title] = Outcome(title=part.title, state="running", seconds=0.0)
            for title, found in run_together(processes):
                if isinstance(found, Outcome):
                    self._end(found)
                else:
                    self._add(title, found)

    def _add(self, title: str, record: Record) -> None:
        before = self._outcomes[title]
        self._outcomes[title] = replace(before, records=(*before.records, record))
        self._say(f"{title}: {_in_short(record)}")
        self._write()

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.title] = outcome
        self._say(f"{outcome.title}: {outcome.state} after {outcome.seconds:.1f} s")
        if outcome.error:
            print(outcome.error, flush=True)
        self._write()

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", flush=True)

    def _write(self) -> None:
        """Whole files, so that what is there can always be read."""
        results = {"title": self._title, "failed": self.failed, "parts": list(map(_as_json, self._outcomes.values()))}
        _replace(self._output / "results.json", json.dumps(results, indent=1))
        _replace(self._output / "report.md", self._report())

    def _report(self) -> str:
        records = [record for outcome in self._outcomes.values() for record in outcome.records]
        cards = [report.card_line(record) for record in records if isinstance(record, Card)]
        head = "\n\n".join([f"# GPU check: {self._title}", *cards])
        return head + "\n" + "".join(_section(outcome) for outcome in self._outcomes.values()) + "\n" + self.verdict()

    def verdict(self) -> str:
        seconds = time.monotonic() - self._begin
        words = f"FAILED: {'; '.join(self.failed)}" if self.failed else "ok"
        if self.not_checked:
            words += f"; NOT CHECKED: {'; '.join(self.not_checked)}"
        return f"gpu-check: {words}; {seconds:.0f} s\n"


def _section(outcome: Outcome) -> str:
    error = f"\n```text\n{outcome.error}\n```\n" if outcome.error else ""
    state = "" if outcome.state == "ok" else f"**{outcome.state}**, "
    tables = report.tables(outcome.records)
    return f"\n## {outcome.title}\n\n{tables}{error}\n({state}{outcome.seconds:.0f} s)\n"


def _as_json(outcome: Outcome) -> dict[str, object]:
    records = [{"kind": record.kind, **asdict(record)} for record in outcome.records]
    return {**asdict(replace(outcome, records=())), "records": records}


def _in_short(record: Record) -> str:
    match record:
        case Card():
            return report.card_line(record)
        case Note():
            return record.text
        case NotChecked():
            return f"NOT CHECKED: {record.reason}"
        case Check():
            return f"{record.name}: {record.error:.3g} of {record.limit:.3g}: {'ok' if record.is_ok else 'WRONG'}"
        case Bandwidth():
            return f"{record.name}: {record.gigabytes_per_second:.0f} GB/s"
        case StepTime():
            return f"batch {record.batch}, n = {record.rows}: {record.seconds * 1e3:.2f} ms"
        case Decoding():
            text = "as plain" if record.is_equal else "NOT as plain"
            return f"{record.name}: {record.tokens_per_second:.0f} tokens/s, {record.of_plain:.2f}x, text {text}"
        case EngineRun():
            text = "as plain" if record.is_equal else "NOT as plain"
            return f"{record.name}: {record.tokens_per_second:.0f} tokens/s, {record.of_plain:.2f}x, text {text}"
        case PeerSpeed():
            return f"batch {record.batch}: {record.tokens_per_second:.0f} tokens/s"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def run_part(title: str, records: Path, *, scale: Scale, device: torch.device) -> None:
    """A part's own process: what it finds goes to `records` line by line. Raises what the part raises."""
    with records.open("a") as file:
        for record in PARTS[title].run(scale, device):
            file.write(to_line(record) + "\n")
            file.flush()


def chosen_parts(titles: Iterable[str], *, is_quick: bool) -> list[Part]:
    """By title, or all; those that are quick. Raises KeyError for an unknown title."""
    named = [PARTS[title] for title in titles]
    return named or [part for part in PARTS.values() if part.is_quick or not is_quick]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/gpu-check"), help="folder of the report")
    parser.add_argument("--quick", action="store_true", help="smaller grids, three minutes")
    parser.add_argument("--rehearse", action="store_true", help="in small on the CPU, in Triton's interpreter")
    parser.add_argument("--only", action="append", default=[], choices=PARTS, help="this part (may be repeated)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="most that all parts may take")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("records", type=Path, nargs="?", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    if not chosen.rehearse and not torch.cuda.is_available():
        print("gpu-check: no CUDA device is here, so nothing was checked and nothing was written", file=sys.stderr)
        return NO_DEVICE
    scale = SMALL if chosen.rehearse else QUICK if chosen.quick else FULL
    if chosen.part:
        device = torch.device("cpu") if chosen.rehearse else torch.device("cuda", 0)
        run_part(chosen.part, chosen.records, scale=scale, device=device)
        return 0
    chosen.output.mkdir(parents=True, exist_ok=True)
    interpreter = ["env", "TRITON_INTERPRET=1", sys.executable] if chosen.rehearse else [sys.executable]
    options = [option for option, is_given in (("--quick", chosen.quick), ("--rehearse", chosen.rehearse)) if is_given]
    check = GpuCheck(
        output=chosen.output,
        seconds=chosen.minutes * 60,
        command=lambda title: [*interpreter, "-m", "bench.gpu_check", *options, "--part", title],
        title=f"{scale.name}, random weights, {scale.dtype}; context {scale.context}",
    )
    parts = chosen_parts(chosen.only, is_quick=chosen.quick)
    with leaving_workers_ended():
        check.run([replace(part, seconds=math.inf) for part in parts] if chosen.rehearse else parts)
    print(f"{check.verdict()}{chosen.output / 'report.md'}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
