"""The comparison's tables: each design alone, and with look-up through the pool that serves, on two step-time curves.

Decides how drafting is priced: every draft that the pool asked for costs what head_cost.py measured (here), or the
share of the target's weights that it reads (a card, stated and not measured).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.drafter_tournament import CARD_READ_SECONDS, VOCAB_SIZE, card
from bench.head_judging import Drafted, ReplayedHead, gain
from bench.head_traffic import Traffic, kind, stream
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.replay import Recording, Replay, StepSeconds

LEARNED_BEFORE = 300  # requests of the same kind that teach the look-up drafters first
BASE = "recurrent-"  # what others are compared with: the first run of this name
CAP, HEAD_CAP = 16, 4  # most tokens of a draft, and of a head's own


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
        pools.add_row(key, "look-up", *pooled(answers, None, here, draft_seconds=0.0, card_seconds=0.0))
        for name, figures in runs.items():
            cost = priced[figures["design"]]
            pools.add_row(
                key,
                name,
                *pooled(
                    answers,
                    drafts[name][key],
                    here,
                    draft_seconds=cost["seconds"][str(HEAD_CAP)],
                    card_seconds=cost["share_of_weights"][str(HEAD_CAP)] * CARD_READ_SECONDS,
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
    draft_seconds: float,
    card_seconds: float,
) -> list[str]:
    """E, and goodput over plain without and with the price of drafting, here and on the card."""
    cells: list[str] = []
    for curve, price in ((here, draft_seconds), (card, card_seconds)):
        drafters: list[Drafter] = [NGramDrafter(name="ngram"), SuffixDrafter(name="suffix")]
        head = ReplayedHead(drafted or ())
        if drafted is not None:
            drafters.append(head)
        caps = {"ngram": CAP, "suffix": CAP, "head": HEAD_CAP}
        replay = Replay(DrafterPool(drafters, vocab_size=VOCAB_SIZE), caps=caps, step_seconds=curve)
        tokens, steps, seconds = 0, 0, 0.0
        for step in replay.steps(recordings):
            tokens += step.advances[0].num_emitted
            steps += 1
            seconds += step.seconds or 0.0
        plain = tokens * curve(1, 1)
        if not cells:
            cells.append(f"{tokens / steps:.2f}")
        cells += [f"{plain / seconds:.2f}", f"{plain / (seconds + head.num_drafts * price):.2f}"]
    return cells
