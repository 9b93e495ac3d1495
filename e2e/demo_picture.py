"""The demo's picture: throughput and acceptance over time, the controller's decisions, and the side-by-side figures.

Decides what is drawn; every number comes from the record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from demo_record import COMPARED, Mode, Record, Sample, moment

WINDOW_SECONDS = 5.0
_COMPARISONS = frozenset(mode.comparison for mode in COMPARED)
COLOURS = {Mode.PLAIN: "#7f7f7f", Mode.UNTRAINED: "#1f77b4", Mode.TRAINED: "#2ca02c"}
MARKS = {
    "DraftLength": "#ff7f0e",
    "Train": "#9467bd",
    "Shadow": "#7f7f7f",
    "Promote": "#2ca02c",
    "Reject": "#d62728",
    "Rollback": "#d62728",
}


def draw(record: Record, path: Path) -> Path:
    """Write the picture; returns its path."""
    figure, panels = plt.subplots(2, 2, figsize=(14, 7.5), layout="constrained", width_ratios=(5, 1), sharex="col")
    rate, length = panels[0][0], panels[1][0]
    for mode in Mode:
        # One request at a time is no throughput to be compared with several at once: those are the bars.
        together = [sample for sample in record.samples if sample.mode is mode and sample.phase not in _COMPARISONS]
        _plot(rate, record, together, mode, lambda group: sum(s.tokens for s in group) / WINDOW_SECONDS)
        of_mode = [sample for sample in record.samples if sample.mode is mode]
        _plot(length, record, of_mode, mode, lambda group: sum(s.tokens for s in group) / sum(s.steps for s in group))
    rate.set_ylabel(f"tokens/s, in windows of {WINDOW_SECONDS:.0f} s")
    length.set_ylabel("acceptance length, tokens per step")
    length.set_xlabel("seconds since the first request")
    rate.legend(loc="lower right")
    _shade_phases(record, (rate, length))
    _mark_decisions(record, (rate, length))
    _bars(record, panels[0][1], panels[1][1])
    figure.suptitle("Bowsprit: SmolLM2-135M on this machine's CPU")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _plot(axes: Any, record: Record, samples: list[Sample], mode: Mode, value: Any) -> None:
    """A dot per window: at its middle, what `value` makes of the answers that ended in it."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(int((sample.at - record.began_at) // WINDOW_SECONDS), []).append(sample)
    if groups:
        times = [(index + 0.5) * WINDOW_SECONDS for index in sorted(groups)]
        values = [value(groups[index]) for index in sorted(groups)]
        axes.plot(times, values, "o", markersize=4, alpha=0.8, color=COLOURS[mode], label=str(mode))


def _shade_phases(record: Record, panels: tuple[Any, ...]) -> None:
    phases = list(dict.fromkeys(sample.phase for sample in record.samples))
    for index, phase in enumerate(phases):
        own = [sample for sample in record.samples if sample.phase == phase]
        begin = min(sample.at - sample.seconds for sample in own) - record.began_at
        end = max(sample.at for sample in own) - record.began_at
        for axes in panels:
            axes.axvspan(begin, end, color="black", alpha=0.07 if index % 2 else 0.02, linewidth=0)
        transform = panels[0].get_xaxis_transform()
        words = "beside\nplain" if phase in _COMPARISONS else phase.replace(" ", "\n", 1)
        panels[0].text((begin + end) / 2, 1.01, words, transform=transform, ha="center", va="bottom", fontsize=8)


def _mark_decisions(record: Record, panels: tuple[Any, ...]) -> None:
    for decision in record.decisions.values():
        at, colour = moment(decision) - record.began_at, MARKS.get(decision["kind"], "black")
        for axes in panels:
            axes.axvline(at, color=colour, linewidth=0.9, linestyle="--")
        label = f"{decision['kind']} {decision['reason']}"
        transform = panels[1].get_xaxis_transform()
        panels[1].text(
            at, 0.99, label, rotation=90, fontsize=7, color=colour, va="top", ha="right", transform=transform
        )


def _bars(record: Record, rate: Any, length: Any) -> None:
    """The table's figures: the same questions, one request at a time."""
    found = {mode: figures for mode in Mode if (figures := record.figures(mode)) is not None}
    colours = [COLOURS[mode] for mode in found]
    names = [mode.name.lower() for mode in found]
    speeds = [figures.tokens_per_second for figures in found.values()]
    lengths = [figures.acceptance_length for figures in found.values()]
    for axes, values, title in ((rate, speeds, "tokens/s"), (length, lengths, "acceptance length")):
        axes.bar_label(axes.bar(names, values, color=colours), fmt="%.2f" if axes is length else "%.0f")
        axes.set_title(f"side by side: {title}", fontsize=9)
        axes.margins(y=0.12)
        axes.tick_params(axis="x", rotation=30)
