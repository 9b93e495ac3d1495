"""Drafters and the pool of them on recorded answers: tokens per step, goodput, and what drafting costs.

    PYTHONPATH=engine python -m bench.recorded_answers --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.drafter_tournament --folder FOLDER --profile PROFILE.json

Decides how a recorded stream is replayed: in order of arrival, `--batch` requests at a time, through the pool and the
windows that serve; those before the judged ones only teach. Verification keeps a draft iff it equals what the target
emits, so replaying gives the steps that serving would have taken. Step times are the profile's (this machine's) and
those of a stated roofline. Trained heads and draft models need the target's states and are in no replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.recorded_answers import Answer, read
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_engine.speculation.windows import windows
from bowsprit_policy.wire import Profile

STREAMS = ("recurring", "tools", "chat", "editing", "noise")
VOCAB_SIZE = 1 << 20  # no recorded token is beyond it
# Of a model of 8 billion bfloat16 weights on a card that reads 3.35 TB/s and reaches half of 989 TFLOP/s: a roofline,
# no measurement.
CARD_READ_SECONDS = 16e9 / 3.35e12
CARD_ROW_SECONDS = 16e9 / (0.5 * 989e12)

Curve = Callable[[int, int], float]  # (sequences, rows) -> seconds of a step
POOLS: dict[str, Callable[[], list[Drafter]]] = {
    "n-gram": lambda: [NGramDrafter(name="ngram")],
    "suffix": lambda: [SuffixDrafter(name="suffix")],
    "pool": lambda: [NGramDrafter(name="ngram"), SuffixDrafter(name="suffix")],
}


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of judged requests. `seconds` by the curve, `drafting_seconds` measured here; each request has its share."""

    tokens: int = 0
    steps: float = 0.0
    drafted: int = 0
    seconds: float = 0.0
    drafting_seconds: float = 0.0
    by_request: dict[int, float] = field(default_factory=dict)

    @property
    def acceptance_length(self) -> float:
        return self.tokens / self.steps


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """One request being replayed; its first token comes from the prompt's last row."""

    index: int
    answer: Answer
    sequence: LiveSequence

    @property
    def left(self) -> int:
        return len(self.answer.prompt) + len(self.answer.tokens) - len(self.sequence.token_ids)


def replay(pool: DrafterPool, answers: Sequence[Answer], *, cap: int, batch: int, curve: Curve) -> Tally:
    """All answers through one pool. Raises ValueError for a batch that isn't positive."""
    if batch < 1:
        raise ValueError(f"batch is {batch}, the least is 1")
    tally = Tally()
    waiting = _begun(answers)
    running: list[Live] = []
    while True:
        while len(running) < batch and (entry := next(waiting, None)) is not None:
            pool.learn(entry.sequence)
            running.append(entry)
        if not running:
            return tally
        _step(pool, running, cap=cap, curve=curve, tally=tally)
        for entry in [entry for entry in running if entry.left == 0]:
            running.remove(entry)
            pool.forget(entry.sequence)


def _begun(answers: Sequence[Answer]) -> Iterator[Live]:
    for index, answer in enumerate(answers):
        if len(answer.tokens) < 2:
            continue
        request = Request(
            request_id=f"{index}",
            prompt_token_ids=answer.prompt,
            sampling=SamplingParams(seed=index, temperature=0.0, max_tokens=len(answer.tokens)),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
        )
        sequence = LiveSequence.begin(request)
        sequence.token_ids.append(answer.tokens[0])
        yield Live(index=index, answer=answer, sequence=sequence)


def _step(pool: DrafterPool, running: Sequence[Live], *, cap: int, curve: Curve, tally: Tally) -> None:
    begin = time.perf_counter()
    names = [drafter.name for drafter in pool.drafters]
    caps = [dict.fromkeys(names, min(cap, entry.left - 1)) for entry in running]
    proposals = pool.draft([entry.sequence for entry in running], caps).proposals
    survivals = [proposal.survivals for proposal in proposals]
    seconds = [curve(len(running), len(running) + n) for n in range(sum(map(len, survivals)) + 1)]
    granted = windows(survivals, seconds, sure_tokens=len(running))
    for entry, proposal, length in zip(running, proposals, granted, strict=True):
        _emit(entry, proposal.cut(length), tally)
        pool.learn(entry.sequence)
    drafting = time.perf_counter() - begin
    taken = seconds[sum(granted)]
    pool.note_step(taken)
    for entry in running:
        if entry.answer.is_judged:
            tally.steps += 1
            tally.seconds += taken / len(running)
            tally.drafting_seconds += drafting / len(running)
            tally.by_request[entry.index] = tally.by_request.get(entry.index, 0.0) + taken / len(running)


def _emit(entry: Live, proposal: Proposal, tally: Tally) -> None:
    """What the target says, as far as the draft holds, and one token more."""
    emitted = 0
    for drafted in (*proposal.token_ids, None):
        token = entry.answer.tokens[-entry.left]
        entry.sequence.token_ids.append(token)
        emitted += 1
        if drafted != token or entry.left == 0:
            break
    if entry.answer.is_judged:
        tally.tokens += emitted
        tally.drafted += len(proposal.token_ids)


def profiled(path: Path) -> Curve:
    """This machine's step times, as the engine measured them at its start. Raises ValueError without cells."""
    times = StepTimes(Profile.model_validate_json(path.read_bytes()).cells)

    def seconds(batch: int, rows: int) -> float:
        known = times.seconds(batch=batch, rows=rows, context=256)
        if known is None:
            raise ValueError(f"{path} knows no step of {batch} sequences and {rows} rows")
        return known

    return seconds


def card(batch: int, rows: int) -> float:
    """The stated roofline: reading the weights once, or the rows' arithmetic, whichever takes longer."""
    return max(CARD_READ_SECONDS, rows * CARD_ROW_SECONDS)


def main(
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    profile: Annotated[Path, typer.Option(help="A start-up profile: ~/.cache/bowsprit/profile/*.json.")],
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence, on the profile's curve.")] = 16,
) -> None:
    """Print a table per step-time curve, and how near the pool comes to the best drafter of each request."""
    for title, curve in (
        (f"step times of {profile.name}", profiled(profile)),
        ("a card's roofline, stated, not measured", card),
    ):
        Console().print(_table(title, folder, curve, batch=batch, cap=cap))


def _table(title: str, folder: Path, curve: Curve, *, batch: int, cap: int) -> Table:
    table = Table("stream", "drafters", "E", "drafted", "goodput / plain", "of step", "of oracle", title=title)
    mixed: dict[str, list[float]] = {name: [] for name in POOLS}
    for stream in STREAMS:
        answers = read(folder, stream)
        tallies = {
            name: replay(DrafterPool(drafters(), vocab_size=VOCAB_SIZE), answers, cap=cap, batch=batch, curve=curve)
            for name, drafters in POOLS.items()
        }
        alone = [tally for name, tally in tallies.items() if name != "pool"]
        oracle = sum(min(tally.by_request[index] for tally in alone) for index in alone[0].by_request)
        for name, tally in tallies.items():
            mixed[name].append(tally.tokens * curve(batch, batch) / batch / tally.seconds)
            table.add_row(
                stream,
                name,
                f"{tally.acceptance_length:.2f}",
                f"{tally.drafted / tally.steps:.1f}",
                f"{mixed[name][-1]:.2f}",
                f"{tally.drafting_seconds / tally.seconds:.1%}",
                f"{oracle / tally.seconds:.1%}",
            )
    for name, ratios in mixed.items():
        harmonic = len(ratios) / sum(1 / ratio for ratio in ratios)
        table.add_row("all five alike", name, "", "", f"{harmonic:.2f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
