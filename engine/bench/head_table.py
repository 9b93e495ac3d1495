"""The comparison's tables: each design alone, and with look-up through the pool that serves, on two step-time curves.

Decides how a head's drafts are priced: what head_cost.py measured (here), or the share of the target's weights that
they read (a card). The pool knows these prices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.card_times import card
from bench.head_judging import Drafted, DraftSeconds, PricedHead, gain
from bench.head_traffic import Traffic, kind, stream
from bench.priced_replay import HEAD_CAP, look_up, plain_seconds, replayed
from bowsprit_engine.speculation.replay import Recording, StepSeconds

LEARNED_BEFORE = 300  # requests of the same kind that teach the look-up drafters first
BASE = "recurrent-"  # what others are compared with: the first run of this name


def measured(step_seconds: Mapping[str, float]) -> StepSeconds:
    """Steps of one sequence, by head_cost.py; between two counts of rows linear, beyond the last one refused."""
    rows = sorted(int(number) for number in step_seconds)
    seconds = [step_seconds[str(number)] for number in rows]

    def curve(batch: int, wanted: int) -> float:
        if batch != 1 or wanted > rows[-1]:
            raise ValueError(f"a step of {batch} sequences and {wanted} rows, known is one of up to {rows[-1]} rows")
        return float(np.interp(wanted, rows, seconds))

    return curve


def compare(results: Path, traffic: Traffic, *, costs: Path) -> None:
    """Print one table for the designs alone and one per stream for pools. Raises FileNotFoundError without costs."""
    priced = json.loads(costs.read_text())
    alone = Table(
        "design",
        "weights",
        "tokens seen",
        "CPU s",
        "stream",
        "matched / reached by position",
        "E 4",
        "E 8",
        "E 4 over the first recurrent one",
    )
    pools = Table("stream", "drafters", "E", "goodput here", "with drafting", "goodput card", "with drafting")
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    drafts = {name: torch.load(results / f"{name}.drafts", weights_only=False) for name in runs}
    base = next(name for name in runs if name.startswith(BASE))
    for name, figures in runs.items():
        for key, of in figures["streams"].items():
            mean, low, high = gain(drafts[base][key], drafts[name][key], HEAD_CAP)
            rates = " ".join(f"{rate:.0%}" for rate in of["per_position"])
            alone.add_row(
                name,
                f"{figures['parameters'] / 1e6:.2f}M",
                f"{figures['spent']['tokens']}",
                f"{figures['spent']['cpu_seconds']:.0f}",
                key,
                rates,
                f"{of['E']['4']:.2f}",
                f"{of['E']['8']:.2f}",
                f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]",
            )
    here = measured(priced["step_seconds"])
    for key in next(iter(runs.values()))["streams"]:
        answers = arranged(traffic, key)
        pools.add_row(key, "look-up", *pooled(answers, None, here, draft_seconds={}, card_seconds=0.0))
        for name, figures in runs.items():
            cost = priced[figures["design"]]
            pools.add_row(
                key,
                name,
                *pooled(
                    answers,
                    drafts[name][key],
                    here,
                    draft_seconds=cost["seconds"],
                    card_seconds=cost["share_of_weights"][str(HEAD_CAP)] / HEAD_CAP * card(1, 1),
                ),
            )
    console = Console(width=180)
    console.print(alone)
    console.print(pools)


def arranged(traffic: Traffic, key: str) -> list[Recording]:
    """The held-out answers of a stream and temperature, after some of its kind that teach look-up."""
    name, temperature = key.split()
    questions = stream().questions
    taught = [a for a in traffic.learned if kind(questions[a.index]) == name][:LEARNED_BEFORE]
    return [
        Recording(
            request_id=f"{answer.index}",
            prompt_token_ids=answer.prompt,
            token_ids=answer.tokens,
            only_teaches=not answer.is_judged,
        )
        for answer in (*taught, *traffic.judged[name, float(temperature)])
    ]


def pooled(
    recordings: Sequence[Recording],
    drafted: Sequence[Drafted] | None,
    here: StepSeconds,
    *,
    draft_seconds: Mapping[str, float],
    card_seconds: float,
) -> list[str]:
    """E, and goodput over plain without and with the price of drafting, here and on the card."""
    cells: list[str] = []
    for curve, price in ((here, per_token(draft_seconds)), (card, lambda _, tokens: card_seconds * tokens)):
        head = None if drafted is None else PricedHead(drafted, seconds=price)
        bill = replayed(recordings, look_up("ngram", "suffix"), head, curve=curve)
        plain = plain_seconds(recordings, curve=curve)
        if not cells:
            cells.append(f"{bill.acceptance_length:.2f}")
        cells += [f"{plain / bill.step_seconds:.2f}", f"{plain / bill.seconds:.2f}"]
    return cells


def per_token(seconds: Mapping[str, float]) -> DraftSeconds:
    """Of one sequence's draft, linear in its tokens between 0 and the lengths that were measured."""
    lengths = sorted(int(length) for length in seconds)

    def price(batch: int, tokens: int) -> float:
        if batch != 1:
            raise ValueError(f"a draft for {batch} sequences, measured was one for 1")
        return float(np.interp(tokens, [0, *lengths], [0.0, *(seconds[str(length)] for length in lengths)]))

    return price
