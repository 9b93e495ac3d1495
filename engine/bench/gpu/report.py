"""The Markdown of a GPU check: one table per kind of record. Knows how figures are shown, not how they came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.gpu.records import Bandwidth, Card, Check, Decoding, EngineRun, NotChecked, Note, PeerSpeed, Record, StepTime


def card_line(card: Card) -> str:
    return (
        f"{card.name}, {card.multiprocessors} multiprocessors of capability {card.capability}, "
        f"{card.memory_bytes / 2**30:.0f} GiB; torch {card.torch}, Triton {card.triton}, Python {card.python}"
    )


def tables(records: Sequence[Record]) -> str:
    """What a part found, kind after kind."""
    found = [
        *(f"{note.text}\n" for note in records if isinstance(note, Note)),
        *(f"**Not checked**: {left.reason}\n" for left in records if isinstance(left, NotChecked)),
        _checks([record for record in records if isinstance(record, Check)]),
        _bandwidths([record for record in records if isinstance(record, Bandwidth)]),
        _steps([record for record in records if isinstance(record, StepTime)]),
        _decodings([record for record in records if isinstance(record, Decoding)]),
        _engine_runs([record for record in records if isinstance(record, EngineRun)]),
        _peers([record for record in records if isinstance(record, PeerSpeed)]),
    ]
    return "\n".join(text for text in found if text)


def _checks(checks: Sequence[Check]) -> str:
    rows = ((c.name, f"{c.error:.3g}", f"{c.limit:.3g}", "ok" if c.is_ok else "**WRONG**") for c in checks)
    return _table(("check", "error", "limit", ""), rows) if checks else ""


def _bandwidths(measured: Sequence[Bandwidth]) -> str:
    """GB/s of the bytes that must move, and their share of what the first of them, a copy, reaches on this card."""
    rows = [
        (
            b.name,
            f"{b.seconds * 1e6:.1f}",
            f"{b.gigabytes_per_second:.0f}",
            f"{b.gigabytes_per_second / measured[0].gigabytes_per_second:.0%}",
            "" if b.torch_seconds is None else f"{b.torch_seconds / b.seconds:.2f}x",
        )
        for b in measured
    ]
    return _table(("work", "µs", "GB/s", "of the copy's", "torch's time / ours"), rows) if measured else ""


def _steps(times: Sequence[StepTime]) -> str:
    """T(n) in milliseconds: a line per batch, a column per rows of each sequence."""
    columns = sorted({time.rows for time in times})
    cells = {(time.batch, time.rows): f"{time.seconds * 1e3:.2f}" for time in times}
    rows = (
        (str(batch), *(cells.get((batch, column), "") for column in columns))
        for batch in sorted({time.batch for time in times})
    )
    header = ("batch", *(f"n = {column}" for column in columns))
    return "T(n), ms of a step:\n\n" + _table(header, rows) if times else ""


def _decodings(decodings: Sequence[Decoding]) -> str:
    header = ("batch", "temperature", "K", "acceptance", "E", "tokens/s", "of plain", "text as plain")
    rows = (
        (
            str(row.batch),
            str(row.temperature),
            str(row.draft_tokens),
            "" if row.acceptance is None else f"{row.acceptance:.2f}",
            f"{row.acceptance_length:.2f}",
            f"{row.tokens_per_second:.0f}",
            f"{row.of_plain:.2f}x",
            "yes" if row.is_equal else "**NO**",
        )
        for row in decodings
    )
    title = "Decoding with a stand-in drafter that costs nothing:\n\n"
    return title + _table(header, rows) if decodings else ""


def _engine_runs(runs: Sequence[EngineRun]) -> str:
    rows = (
        (
            str(run.batch),
            run.drafter,
            f"{run.tokens_per_second:.0f}",
            f"{run.of_plain:.2f}x",
            "yes" if run.is_equal else "**NO**",
        )
        for run in runs
    )
    title = "The whole engine, greedy, while all of a batch decode:\n\n"
    return title + _table(("batch", "drafter", "tokens/s", "of plain", "text as plain"), rows) if runs else ""


def _peers(speeds: Sequence[PeerSpeed]) -> str:
    rows = ((str(peer.batch), f"{peer.tokens_per_second:.0f}") for peer in speeds)
    return "generate, greedy, prompt included:\n\n" + _table(("batch", "tokens/s"), rows) if speeds else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
