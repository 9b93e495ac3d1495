"""The Markdown of a GPU check: one table per part. Knows how figures are shown, not how they came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.gpu.checks import Check
from bench.gpu.decoding import Decoded
from bench.gpu.speed import Bandwidth, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRow:
    """One run beside the plain run of the same prompts; without `acceptance` it is that run."""

    batch: int
    temperature: float
    decoded: Decoded
    plain: Decoded
    draft_tokens: int = 0
    acceptance: float | None = None

    @property
    def is_equal(self) -> bool:
        return self.decoded.answers == self.plain.answers


def checks_table(checks: Sequence[Check]) -> str:
    rows = ((c.name, f"{c.error:.3g}", f"{c.limit:.3g}", "ok" if c.is_ok else "**WRONG**") for c in checks)
    return _table(("check", "error", "limit", ""), rows)


def bandwidth_table(card: Bandwidth, measured: Iterable[Bandwidth]) -> str:
    """GB/s of the bytes that must move, and their share of what a copy reaches on this card."""
    rows = [
        (
            b.name,
            f"{b.seconds * 1e6:.1f}",
            f"{b.gigabytes_per_second:.0f}",
            f"{b.gigabytes_per_second / card.gigabytes_per_second:.0%}",
            "" if b.torch_seconds is None else f"{b.torch_seconds / b.seconds:.2f}x",
        )
        for b in (card, *measured)
    ]
    return _table(("work", "µs", "GB/s", "of the copy's", "torch's time / ours"), rows)


def step_table(times: Sequence[StepTime]) -> str:
    """T(n) in milliseconds: a line per batch, a column per rows of each sequence."""
    columns = sorted({time.rows for time in times})
    cells = {(time.batch, time.rows): f"{time.seconds * 1e3:.2f}" for time in times}
    rows = (
        (str(batch), *(cells.get((batch, column), "") for column in columns))
        for batch in sorted({time.batch for time in times})
    )
    return "T(n), ms of a step:\n\n" + _table(("batch", *(f"n = {column}" for column in columns)), rows)


def decoding_table(rows: Sequence[DecodingRow]) -> str:
    header = ("batch", "temperature", "K", "acceptance", "E", "tokens/s", "of plain", "text as plain")
    return "Decoding with a stand-in drafter that costs nothing:\n\n" + _table(
        header,
        (
            (
                str(row.batch),
                str(row.temperature),
                str(row.draft_tokens),
                "" if row.acceptance is None else f"{row.acceptance:.2f}",
                f"{row.decoded.acceptance_length:.2f}",
                f"{row.decoded.tokens_per_second:.0f}",
                f"{row.decoded.tokens_per_second / row.plain.tokens_per_second:.2f}x",
                "yes" if row.is_equal else "**NO**",
            )
            for row in rows
        ),
    )


def peer_table(speeds: Mapping[int, float]) -> str:
    rows = ((str(batch), f"{speed:.0f}") for batch, speed in speeds.items())
    return "generate, greedy, prompt included:\n\n" + _table(("batch", "tokens/s"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
