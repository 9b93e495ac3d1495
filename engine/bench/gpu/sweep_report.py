"""The Markdown of a sweep: for each case what torch, the constants as they are and the best candidates take.

Knows how figures are shown, not how they came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bench.gpu.records import Card, Note
from bench.gpu.report import card_line
from bench.gpu.sweep_records import AS_IT_IS, TORCH, Failed, InStep, Record, Timed

MOST_KERNELS = 14  # of a step, by their time in all cells


def section(title: str, records: Sequence[Record], *, legend: str, num_best: int) -> str:
    """One subject's tables."""
    heads = [card_line(record) for record in records if isinstance(record, Card)]
    heads += [record.text for record in records if isinstance(record, Note)]
    parts = [
        "\n\n".join([f"## {title}", *dict.fromkeys(heads)]) + "\n",
        _times([record for record in records if isinstance(record, Timed)], legend=legend, num_best=num_best),
        _kernels([record for record in records if isinstance(record, InStep)]),
        _failures([record for record in records if isinstance(record, Failed)]),
    ]
    return "\n".join(part for part in parts if part)


def _times(times: Sequence[Timed], *, legend: str, num_best: int) -> str:
    """A line per case, µs: the two that are no candidates, then the best candidates, the fastest first."""
    by_case: dict[str, list[Timed]] = defaultdict(list)
    for time in times:
        by_case[time.case].append(time)
    fixed = [name for name in (TORCH, AS_IT_IS) if any(time.candidate == name for time in times)]
    rows = []
    for case, own in by_case.items():
        known = {time.candidate: time.seconds for time in own}
        best = sorted((time for time in own if time.candidate not in fixed), key=lambda time: time.seconds)
        shown = [f"{time.candidate}: {time.seconds * 1e6:.1f}" for time in best[:num_best]]
        shown += [""] * (num_best - len(shown))
        rows.append([case, *(f"{known[name] * 1e6:.1f}" if name in known else "" for name in fixed), *shown])
    words = f"µs{f'; a candidate is {legend}' if legend else ''}:\n\n"
    return words + _table(["case", *fixed, *(f"best {n + 1}" for n in range(num_best))], rows) if times else ""


def _kernels(parts: Sequence[InStep]) -> str:
    """A line per kernel, a column per step: µs and how often it was launched."""
    cases = list(dict.fromkeys(part.case for part in parts))
    cells = {(part.kernel, part.case): part for part in parts}
    totals: dict[str, float] = defaultdict(float)
    for part in cells.values():
        totals[part.kernel] += part.seconds
    rows = [
        [
            kernel.replace("|", "/")[:60],
            *(
                f"{cells[kernel, case].seconds * 1e6:.0f} ({cells[kernel, case].launches:.0f})"
                if (kernel, case) in cells
                else ""
                for case in cases
            ),
        ]
        for kernel in sorted(totals, key=lambda kernel: -totals[kernel])[:MOST_KERNELS]
    ]
    return "µs of a step by kernel (launches):\n\n" + _table(["kernel", *cases], rows) if parts else ""


def _failures(failures: Sequence[Failed]) -> str:
    """A candidate fails for one reason in most cases: a line for each such pair."""
    cases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for failure in failures:
        cases[failure.candidate, failure.reason].append(failure.case)
    rows = (
        [candidate, reason.replace("|", "/"), f"{len(own)}: {own[0]}{', …' * (len(own) > 1)}"]
        for (candidate, reason), own in cases.items()
    )
    return "Failed:\n\n" + _table(["candidate", "why", "cases"], rows) if failures else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
