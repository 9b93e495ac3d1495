"""The demo's picture: throughput and acceptance over time, phases shaded, the controller's decisions marked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from demo_record import Mode, Record, Sample, moment

WINDOW_SECONDS = 5.0
COLOURS = {Mode.PLAIN: "#7f7f7f", Mode.UNTRAINED: "#1f77b4", Mode.TRAINED: "#2ca02c"}
MARKS = {"DraftLength": "#ff7f0e", "Train": "#9467bd", "Promote": "#2ca02c", "Reject": "#d62728", "Rollback": "#d62728"}


def draw(record: Record, path: Path) -> Path:
    """Write the picture; returns its path."""
    figure, (rate, length) = plt.subplots(2, 1, sharex=True, figsize=(12, 7), layout="constrained")
    for mode in Mode:
        samples = [sample for sample in record.samples if sample.mode is mode]
        _plot(
            rate, [(at, sum(s.tokens for s in group) / WINDOW_SECONDS) for at, group in _windows(record, samples)], mode
        )
        _plot(
            length,
            [
                (at, sum(s.tokens for s in group) / sum(s.steps for s in group))
                for at, group in _windows(record, samples)
            ],
            mode,
        )
    rate.set_ylabel(f"tokens/s, windows of {WINDOW_SECONDS:.0f} s")
    length.set_ylabel("acceptance length, tokens per step")
    length.set_xlabel("seconds")
    rate.legend(loc="upper left")
    _shade_phases(record, (rate, length))
    _mark_decisions(record, (rate, length))
    figure.suptitle("Bowsprit: SmolLM2-135M on this machine's CPU")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _plot(axes: Any, points: list[tuple[float, float]], mode: Mode) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), ".", markersize=5, color=COLOURS[mode], label=str(mode))


def _windows(record: Record, samples: list[Sample]) -> Iterable[tuple[float, list[Sample]]]:
    """(middle of the window in seconds since the beginning, the answers that ended in it)."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(int((sample.at - record.began_at) // WINDOW_SECONDS), []).append(sample)
    return [((index + 0.5) * WINDOW_SECONDS, group) for index, group in sorted(groups.items())]


def _shade_phases(record: Record, panels: tuple[Any, ...]) -> None:
    phases = list(dict.fromkeys(sample.phase for sample in record.samples))
    for index, phase in enumerate(phases):
        own = [sample for sample in record.samples if sample.phase == phase]
        begin = min(sample.at - sample.seconds for sample in own) - record.began_at
        end = max(sample.at for sample in own) - record.began_at
        for axes in panels:
            axes.axvspan(begin, end, color="black", alpha=0.06 if index % 2 else 0.02, linewidth=0)
        panels[0].text(
            (begin + end) / 2, 1.01, phase, transform=panels[0].get_xaxis_transform(), ha="center", fontsize=8
        )


def _mark_decisions(record: Record, panels: tuple[Any, ...]) -> None:
    for decision in record.decisions.values():
        at, colour = moment(decision) - record.began_at, MARKS.get(decision["kind"], "black")
        for axes in panels:
            axes.axvline(at, color=colour, linewidth=0.8, linestyle="--")
        label = f"{decision['kind']}: {decision.get('to', '')}"
        panels[1].text(
            at, 0.98, label, rotation=90, fontsize=7, color=colour, va="top", ha="right",
            transform=panels[1].get_xaxis_transform(),
        )  # fmt: skip
