"""What a run found, as tables for a terminal, as Markdown and as JSON. Pure but for the two files of `write`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.plan import Case
from bench.protocol import Hello
from bench.spread import Ratio, Spread, ratio, spread
from bench.targets import Verdict

Rows = list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All of one run. samples[case][participant]: tokens per second, one per round, in the rounds' order.

    `tokens_per_step[case][participant]`: one mean per round. `leading_equal[case][participant]`: tokens that its
    answers share with our plain ones from the start, one mean per round.
    """

    machine: Mapping[str, str]
    hellos: Mapping[str, Hello] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    cases: Sequence[Case] = ()
    samples: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    tokens_per_step: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    leading_equal: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)  # what each printed, by name


CASE_HEADER = ["engine", "tokens/s", "quartiles", "bowsprit / this", "95 % interval", "tokens/step", "same start"]
VERDICT_HEADER = ["figure to reach", "limit", "measured", "95 % interval", "verdict"]


def case_rows(case: Case, measurements: Measurements, *, ours: str) -> Rows:
    """A row per participant. The ratio is our plain engine's rate over the row's: what is faster than us is below 1."""
    of_case = measurements.samples.get(case.name, {})
    rows = []
    for name in case.participants:
        if not of_case.get(name):
            rows.append([name, measurements.skipped.get(name, "no samples"), "", "", "", "", ""])
            continue
        compared = ratio(of_case[ours], of_case[name]) if name != ours and of_case.get(ours) else None
        rows.append(
            [
                name,
                f"{spread(of_case[name]).median:.1f}",
                _quartiles(spread(of_case[name])),
                f"{compared.value:.2f}" if compared else "",
                _interval(compared) if compared else "",
                _mean(measurements.tokens_per_step, case.name, name, digits=2),
                _mean(measurements.leading_equal, case.name, name, digits=0),
            ]
        )
    return rows


def verdict_rows(verdicts: Sequence[Verdict]) -> Rows:
    rows = []
    for verdict in verdicts:
        unsure = "" if verdict.is_sure or verdict.measured is None else ", within the spread"
        rows.append(
            [
                verdict.what,
                verdict.limit,
                f"{verdict.measured.value:.3g}" if verdict.measured else "",
                _interval(verdict.measured) if verdict.measured else "",
                f"{verdict.outcome}{unsure}{f': {verdict.note}' if verdict.note else ''}",
            ]
        )
    return rows


def markdown(measurements: Measurements, verdicts: Sequence[Verdict], *, ours: str) -> str:
    parts = ["# Bench", "", *[f"- {key}: {value}" for key, value in measurements.machine.items()], ""]
    parts += ["## Who was compared", ""]
    for name, hello in measurements.hellos.items():
        settings = "; ".join(f"{key} {value}" for key, value in hello.settings.items() if value)
        parts.append(f"- **{name}**: {hello.version}; {settings}")
    parts += [f"- **{name}** skipped: {why}" for name, why in measurements.skipped.items()]
    for case in measurements.cases:
        parts += ["", f"## {case.title} ({case.rounds} rounds)", ""]
        parts += _markdown_table(CASE_HEADER, case_rows(case, measurements, ours=ours))
    for name, printed in measurements.companions.items():
        parts += ["", f"## {name}", "", "```text", printed.rstrip(), "```"]
    parts += ["", "## Figures to reach", "", *_markdown_table(VERDICT_HEADER, verdict_rows(verdicts)), ""]
    return "\n".join(parts)


def write(folder: Path, measurements: Measurements, verdicts: Sequence[Verdict], *, ours: str) -> tuple[Path, Path]:
    """bench.json (every sample) and bench.md, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    whole: dict[str, Any] = dataclasses.asdict(measurements) | {
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts]
    }
    as_json, as_markdown = folder / "bench.json", folder / "bench.md"
    as_json.write_text(json.dumps(whole, indent=1))
    as_markdown.write_text(markdown(measurements, verdicts, ours=ours))
    return as_json, as_markdown


def _markdown_table(header: Sequence[str], rows: Rows) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def _quartiles(of: Spread) -> str:
    return f"{of.low:.1f} to {of.high:.1f}"


def _interval(of: Ratio) -> str:
    return f"{of.low:.3g} to {of.high:.3g}"


def _mean(values: Mapping[str, Mapping[str, Sequence[float]]], case: str, name: str, *, digits: int) -> str:
    found = values.get(case, {}).get(name)
    return f"{sum(found) / len(found):.{digits}f}" if found else ""
