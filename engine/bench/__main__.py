"""`make bench`: our engine beside transformers, llama.cpp and vLLM on this machine, and the figures to reach.

Wires the parts: weights, installations, workers, cases, verdicts, tables. Decides nothing but the order.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import companions, plan, report, targets
from bench.comparison import Comparison, Found
from bench.end_signal import leaving_workers_ended
from bench.exported_weights import ExportedWeights, export, packaged_model
from bench.installation import (
    ROOT,
    PeerUnavailableError,
    cache_folder,
    command_of,
    num_processors,
    python_of,
    variables_of,
)
from bench.plan import PARTICIPANTS, Case, Participant
from bench.prompts import prompts_of
from bench.protocol import Hello, WorkerError
from bench.worker_process import WorkerProcess
from bowsprit_engine.models.weights import load_tokenizer

HELLO_SECONDS = 900.0  # vLLM compiles at its first start
QUIET_LOAD = 0.5

LOG_WIDTH = 140  # of tables that no terminal shows

console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
Names = Annotated[str, typer.Option(help="Only these, separated by commas.")]


@leaving_workers_ended()
def main(
    quick: Annotated[bool, typer.Option(help="Fewer rounds, shorter answers, B = 1 and 8.")] = False,
    cases: Names = "",
    engines: Names = "",
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds per case.", show_default="9, quick 3")] = None,
    companions_too: Annotated[bool, typer.Option(help="Step times and server overhead too.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of bench.json, bench.md and the engines' logs.")] = ROOT
    / "out"
    / "bench",
) -> None:
    """Compare our engine with others on the same bfloat16 weights, prompts and processors, interleaved, with spread."""
    begin = time.monotonic()
    chosen_cases = _chosen_cases(plan.QUICK if quick else plan.FULL, cases, rounds)
    chosen = _chosen_engines(engines)
    out.mkdir(parents=True, exist_ok=True)
    machine = _machine(quick=quick)
    say(f"{machine['processor']}, {machine['processors']} processors, load {machine['load at start']}")
    cache = cache_folder()
    weights = export(packaged_model(), cache)
    found, hellos, skipped = _compare(chosen, chosen_cases, weights, cache, out)
    verdicts = [targets.judged(target, found.samples) for target in targets.speed_targets()]
    runs = companions.run_all(weights.hf_folder, out, quick=quick, say=say) if companions_too else []
    verdicts += [verdict for run in runs for verdict in run.verdicts]
    measurements = report.Measurements(
        machine=machine | {"load at end": _load(), "minutes": f"{(time.monotonic() - begin) / 60:.1f}"},
        hellos=hellos,
        skipped=skipped | found.skipped,
        cases=chosen_cases,
        samples=found.samples,
        tokens_per_step=found.tokens_per_step,
        leading_equal=found.leading_equal,
        companions={run.name: run.printed for run in runs},
    )
    _print(measurements, verdicts)
    as_json, as_markdown = report.write(out, measurements, verdicts, ours=plan.OURS)
    say(f"written: {as_markdown} and {as_json}")


def say(line: str) -> None:
    console.print(f"[{time.strftime('%H:%M:%S')}] {line}", markup=False, soft_wrap=True)


def _chosen_cases(scale: plan.Scale, names: str, rounds: int | None) -> tuple[Case, ...]:
    if rounds is not None:
        scale = dataclasses.replace(scale, rounds=rounds)
    every = plan.cases(scale)
    wanted = names.split(",") if names else [case.name for case in every]
    unknown = sorted(set(wanted) - {case.name for case in every})
    if unknown:
        raise typer.BadParameter(f"no case {', '.join(unknown)}; there are {', '.join(case.name for case in every)}")
    return tuple(case for case in every if case.name in wanted)


def _chosen_engines(names: str) -> list[Participant]:
    wanted = names.split(",") if names else [entry.name for entry in PARTICIPANTS]
    unknown = sorted(set(wanted) - {entry.name for entry in PARTICIPANTS})
    if unknown:
        known = ", ".join(entry.name for entry in PARTICIPANTS)
        raise typer.BadParameter(f"no engine {', '.join(unknown)}; there are {known}")
    return [entry for entry in PARTICIPANTS if entry.name in wanted]


def _compare(
    participants: list[Participant], cases: tuple[Case, ...], weights: ExportedWeights, cache: Path, out: Path
) -> tuple[Found, dict[str, Hello], dict[str, str]]:
    tokenizer = load_tokenizer(weights.hf_folder)
    hellos: dict[str, Hello] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        workers = {}
        for participant in participants:
            begin = time.monotonic()
            try:
                worker = _started(participant, weights, cache, out, stack)
                hellos[participant.name] = worker.hello(timeout_seconds=HELLO_SECONDS)
            except (PeerUnavailableError, WorkerError) as error:
                skipped[participant.name] = str(error)
                say(f"{participant.name} is SKIPPED: {error}")
                continue
            workers[participant.name] = worker
            say(f"{participant.name} is up after {time.monotonic() - begin:.0f} s: {hellos[participant.name].version}")
        comparison = Comparison(workers, progress=say)
        for case in cases:
            comparison.run(case, prompts_of(case, tokenizer))
    return comparison.found, hellos, skipped


def _started(
    participant: Participant, weights: ExportedWeights, cache: Path, out: Path, stack: ExitStack
) -> WorkerProcess:
    python = python_of(participant.peer, cache=cache, log=out / f"install-{participant.peer}.log")
    worker = WorkerProcess(
        command_of(participant, python, weights),
        env=variables_of(participant.peer, python, cache=cache, base=os.environ),
        log=out / f"{participant.name.replace(' ', '-')}.log",
    )
    return stack.enter_context(worker)


def _machine(*, quick: bool) -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    load = os.getloadavg()[0]
    noise = "" if load <= QUIET_LOAD else " (NOT a quiet machine: figures are noisy, ratios less so)"
    return {
        "processor": model or platform.machine(),
        "processors": str(num_processors()),
        "model": "SmolLM2-135M-Instruct, bfloat16",
        "mode": "quick" if quick else "full",
        "load at start": f"{load:.1f}{noise}",
    }


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _print(measurements: report.Measurements, verdicts: list[targets.Verdict]) -> None:
    for case in measurements.cases:
        _print_table(case.title, report.CASE_HEADER, report.case_rows(case, measurements, ours=plan.OURS))
    for name, printed in measurements.companions.items():
        console.print(f"{name}\n{printed.rstrip()}\n", markup=False, soft_wrap=True)
    _print_table("Figures to reach", report.VERDICT_HEADER, report.verdict_rows(verdicts))


def _print_table(title: str, header: list[str], rows: report.Rows) -> None:
    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


if __name__ == "__main__":
    typer.run(main)
