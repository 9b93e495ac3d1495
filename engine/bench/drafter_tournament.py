"""Drafters and the pool of them on recorded answers: tokens per step, goodput, and what drafting costs.

    PYTHONPATH=engine python -m bench.recorded_answers --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.drafter_tournament --folder FOLDER --profile PROFILE.json

Decides how a recorded stream is replayed: in order of arrival, `--batch` requests at a time, through the pool and the
windows that serve; those before the judged ones only teach. Verification keeps a draft iff it equals what the target
emits, so replaying gives the steps that serving would have taken. Given `--model`, answers under a schema are replayed
with their grammar: what it forces is drafted, what it forbids is not. Step times are the profile's (this machine's) and
those of a stated roofline. Trained heads and draft models need the target's states and are in no replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.drafter_streams import streams
from bench.recorded_answers import STREAM_SEED, Answer, grammar_compiler, read
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.server.assembly import load
from bowsprit_engine.server.structured import json_source
from bowsprit_engine.speculation.costs import StepTimes, batch_bucket
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
    """Of judged requests. `seconds` by the curve, `drafting_seconds` of processor time here; each has its share."""

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

    answer: Answer
    sequence: LiveSequence
    eos_token_ids: frozenset[int]

    def take(self, token: int) -> None:
        self.sequence.token_ids.append(token)
        if self.sequence.grammar is not None and token not in self.eos_token_ids:
            self.sequence.grammar.advance([token])

    @property
    def left(self) -> int:
        return len(self.answer.prompt) + len(self.answer.tokens) - len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Recorded answers in order of arrival; `grammars` by index of those that kept to one."""

    name: str
    answers: Sequence[Answer]
    grammars: Mapping[int, CompiledGrammar] = field(default_factory=dict)
    eos_token_ids: frozenset[int] = frozenset()


def replay(pool: DrafterPool, stream: Stream, *, cap: int, batch: int, curve: Curve) -> Tally:
    """All answers through one pool. Raises ValueError for a batch that isn't positive."""
    if batch < 1:
        raise ValueError(f"batch is {batch}, the least is 1")
    tally = Tally()
    waiting = _begun(stream)
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


def _begun(stream: Stream) -> Iterator[Live]:
    for answer in stream.answers:
        if len(answer.tokens) < 2:
            continue
        request = Request(
            request_id=f"{answer.index}",
            prompt_token_ids=answer.prompt,
            sampling=SamplingParams(seed=answer.index, temperature=0.0, max_tokens=len(answer.tokens)),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
            grammar=stream.grammars.get(answer.index),
        )
        live = Live(answer=answer, sequence=LiveSequence.begin(request), eos_token_ids=stream.eos_token_ids)
        live.take(answer.tokens[0])
        yield live


def _step(pool: DrafterPool, running: Sequence[Live], *, cap: int, curve: Curve, tally: Tally) -> None:
    begin = time.process_time()
    names = [drafter.name for drafter in pool.drafters]
    caps = [dict.fromkeys(names, min(cap, entry.left - 1)) for entry in running]
    forced = [entry.sequence.forced(min(cap, entry.left - 1)) for entry in running]
    proposals = [
        proposal.cut(entry.sequence.num_possible(proposal.token_ids))
        for entry, proposal in zip(
            running, pool.draft([entry.sequence for entry in running], caps, forced=forced).proposals, strict=True
        )
    ]
    survivals = [proposal.survivals for proposal in proposals]
    seconds = [curve(len(running), len(running) + n) for n in range(sum(map(len, survivals)) + 1)]
    granted = windows(survivals, seconds, sure_tokens=len(running))
    for entry, proposal, length in zip(running, proposals, granted, strict=True):
        _emit(entry, proposal.cut(length), tally)
        pool.learn(entry.sequence)
    drafting = time.process_time() - begin
    taken = seconds[sum(granted)]
    pool.note_step(taken)
    for entry in running:
        if entry.answer.is_judged:
            tally.steps += 1
            tally.seconds += taken / len(running)
            tally.drafting_seconds += drafting / len(running)
            index = entry.answer.index
            tally.by_request[index] = tally.by_request.get(index, 0.0) + taken / len(running)


def _emit(entry: Live, proposal: Proposal, tally: Tally) -> None:
    """What the target says, as far as the draft holds, and one token more."""
    emitted = 0
    for drafted in (*proposal.token_ids, None):
        token = entry.answer.tokens[-entry.left]
        entry.take(token)
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
        # A batch between two buckets is priced as the larger one, where the profile has no fewer rows.
        known = times.seconds(batch=batch, rows=max(rows, batch_bucket(batch)), context=256)
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
    model: Annotated[str | None, typer.Option(help="The recorded model, to replay grammars too.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence, on the profile's curve.")] = 16,
) -> None:
    """Print a table per step-time curve, and how near the pool comes to the best drafter of each request."""
    recorded = list(_streams(folder, model))
    for title, curve in (
        (f"step times of {profile.name}", profiled(profile)),
        ("a card's roofline, stated, not measured", card),
    ):
        Console().print(_table(title, recorded, curve, batch=batch, cap=cap))


def _streams(folder: Path, model: str | None) -> Iterator[Stream]:
    loaded = None if model is None else load(ModelSettings(model=model))
    questions = {stream.name: stream.questions for stream in streams(learned=300, judged=40, seed=STREAM_SEED)}
    for name in STREAMS:
        answers = read(folder, name)
        if loaded is None:
            yield Stream(name=name, answers=answers)
            continue
        compiler = grammar_compiler(loaded)
        schemas = {answer.index: questions[name][answer.index].schema for answer in answers}
        yield Stream(
            name=name,
            answers=answers,
            grammars={i: compiler.compile(json_source(schema)) for i, schema in schemas.items() if schema},
            eos_token_ids=frozenset(loaded.config.eos_token_ids),
        )


def _table(title: str, recorded: Sequence[Stream], curve: Curve, *, batch: int, cap: int) -> Table:
    table = Table("stream", "drafters", "E", "drafted", "goodput / plain", "of step", "of oracle", title=title)
    mixed: dict[str, list[float]] = {name: [] for name in POOLS}
    for stream in recorded:
        tallies = {
            name: replay(DrafterPool(drafters(), vocab_size=VOCAB_SIZE), stream, cap=cap, batch=batch, curve=curve)
            for name, drafters in POOLS.items()
        }
        nobody = DrafterPool([], vocab_size=VOCAB_SIZE)
        plain = replay(nobody, replace(stream, grammars={}), cap=0, batch=batch, curve=curve)
        alone = [tally for name, tally in tallies.items() if name != "pool"]
        oracle = sum(min(tally.by_request[index] for tally in alone) for index in alone[0].by_request)
        for name, tally in tallies.items():
            mixed[name].append(plain.seconds / tally.seconds)
            table.add_row(
                stream.name,
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
