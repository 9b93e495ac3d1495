"""The bench's other measurements, each a program of its own: step times, overhead of the server, long prompts.

Runs them one after another, with nothing beside them, and turns what they write into verdicts. Refuses to know how they
measure. Each is `python -m bench.NAME --json FILE`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.spread import Ratio
from bench.targets import Verdict, bounded

COMPANION_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One figure of a companion: a key of its file's `figures`, and the limit on it."""

    key: str
    what: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


BOUNDS: Mapping[str, Sequence[Bound]] = {
    "prefill_interference": (
        Bound(
            key="p99_added_steps",
            what="added latency of a running stream, p99, steps, when a prompt of 2,000 tokens comes",
            at_most=2.0,
        ),
    ),
    "step_times": (
        Bound(key="roofline_fraction_n1", what="fraction of the measured roofline, n=1", at_least=0.85),
        Bound(key="roofline_fraction_n9", what="fraction of the measured roofline, n=9", at_least=0.62),
        Bound(key="t9_over_t1", what="T(9)/T(1) at context 256", at_most=1.6),
        Bound(key="t17_over_t1", what="T(17)/T(1) at context 256", at_most=2.4),
    ),
    "server_overhead": (
        Bound(key="http_streams_1", what="tokens/s over HTTP, 1 stream, against the bare step loop", at_least=0.95),
        Bound(key="http_streams_8", what="tokens/s over HTTP, 8 streams, against the bare step loop", at_least=0.90),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one companion gave: its figures judged, and what it printed."""

    name: str
    verdicts: Sequence[Verdict]
    printed: str


def run_all(model: Path, out: Path, *, quick: bool, say: Callable[[str], None]) -> list[Run]:
    """Every companion in turn. One that fails leaves its figures unmeasured, with the reason."""
    runs = []
    for name, bounds in BOUNDS.items():
        say(f"{name} runs")
        figures, why = _measured(name, model, out, quick=quick)
        log = out / f"{name}.log"
        printed = log.read_text(errors="replace") if log.exists() and not why else why
        runs.append(Run(name=name, verdicts=[judged(bound, figures, why) for bound in bounds], printed=printed))
    return runs


def judged(bound: Bound, figures: Mapping[str, Any], why: str) -> Verdict:
    """`figures`: by key, a number or an object with value, low and high."""
    figure = figures.get(bound.key)
    if figure is None:
        note = why or f"the program gives no {bound.key}"
        return Verdict(what=bound.what, limit=bound.limit, outcome="not measured", note=note)
    if not isinstance(figure, Mapping):
        figure = {"value": figure, "low": figure, "high": figure}
    measured = Ratio(value=figure["value"], low=figure["low"], high=figure["high"])
    return bounded(
        what=bound.what, limit=bound.limit, measured=measured, at_least=bound.at_least, at_most=bound.at_most
    )


def _measured(name: str, model: Path, out: Path, *, quick: bool) -> tuple[Mapping[str, Any], str]:
    """Figures, or none and why."""
    if not Path(__file__).with_name(f"{name}.py").exists():
        return {}, f"engine/bench/{name}.py is not there"
    written, log = out / f"{name}.json", out / f"{name}.log"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"bench.{name}", "--model", str(model), "--json", str(written)]
    with log.open("w") as file:
        try:
            process = subprocess.run(
                [*command, *(["--quick"] if quick else [])], stdout=file, stderr=file, timeout=COMPANION_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {}, f"not done within {COMPANION_SECONDS:.0f} s; log: {log}"
    if process.returncode != 0:
        return {}, f"exits {process.returncode}; log: {log}"
    figures: Mapping[str, Any] = json.loads(written.read_text())["figures"]
    return figures, ""
