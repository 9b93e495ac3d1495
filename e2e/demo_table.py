"""The demo's closing table: plain, untrained, trained, side by side."""

from __future__ import annotations

from rich.table import Table

from demo_record import Figures, Mode, Record


def comparison_table(record: Record) -> Table:
    """One row per mode that was compared; the speed-up has its 95 % interval."""
    table = Table(title="The same questions, each also in plain decoding, one at a time, in turn", title_justify="left")
    for column in ("", "tokens/s", "plain then", "acceptance length", "drafts/step", "K in force", "speed-up"):
        longest_word = max(map(len, column.split(" ")))
        table.add_column(
            column,
            justify="left" if column == "" else "right",
            min_width=longest_word,
            no_wrap=column in ("", "speed-up"),
        )
    for mode in Mode:
        figures = record.figures(mode)
        if figures is not None:
            table.add_row(*_row(mode, figures, record))
    return table


def _row(mode: Mode, figures: Figures, record: Record) -> tuple[str, ...]:
    name = f"with {record.revision}" if mode is Mode.TRAINED else str(mode)
    speedup = "1"
    if figures.speedup is not None:
        ratio, low, high = figures.speedup
        speedup = f"{ratio:.2f}  [{low:.2f}, {high:.2f}]"
    return (
        name,
        f"{figures.tokens_per_second:.1f}",
        "" if mode is Mode.PLAIN else f"{figures.plain_tokens_per_second:.1f}",
        f"{figures.acceptance_length:.2f}",
        f"{figures.draft_tokens_per_step:.2f}",
        "0" if mode is Mode.PLAIN else " → ".join(record.caps.get(mode, [])),
        speedup,
    )
