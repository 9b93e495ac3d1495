"""Drafters and the pool of them on recorded answers: tokens per step, goodput, and what drafting costs.

    PYTHONPATH=engine python -m bench.recorded_answers --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.drafter_tournament --folder FOLDER --profile PROFILE --model MODEL --head HEAD

Decides which pools compete and what is counted: requests before the judged ones are only learned from, and the replay
is the one that judges trained heads (bowsprit_engine.speculation.replay). Given `--model`, answers under a schema are
replayed with their grammar: what it forces is drafted, what it forbids is not. Given `--head` too, the target's states
are recomputed and a trained head competes. Step times are the profile's (this machine's) and a card's
(card_times). The pool prices a head by what it takes here: figures with one need a machine that is otherwise idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import card_times
from bench.drafter_streams import streams
from bench.recorded_answers import STREAM_SEED, STREAMS, Answer, grammar_compiler, read
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server.assembly import load
from bowsprit_engine.server.structured import json_source
from bowsprit_engine.speculation.costs import StepTimes, batch_bucket
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.replay import Recording, Replay, StepSeconds
from bowsprit_engine.training import artifact
from bowsprit_engine.training.data import TokenSequence
from bowsprit_engine.training.features import StateReader
from bowsprit_policy.wire import DrafterType, Profile

VOCAB_SIZE = 1 << 20  # no recorded token is beyond it

Curve = StepSeconds
POOLS: dict[str, Callable[[], list[Drafter]]] = {
    "n-gram": lambda: [NGramDrafter(name="ngram")],
    "suffix": lambda: [SuffixDrafter(name="suffix")],
    "n-gram + suffix": lambda: [NGramDrafter(name="ngram"), SuffixDrafter(name="suffix")],
}


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of judged requests. `seconds` by the curve, `drafting_seconds` of processor time here; each has its share."""

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    seconds: float = 0.0
    drafting_seconds: float = 0.0
    by_request: dict[str, float] = field(default_factory=dict)

    @property
    def acceptance_length(self) -> float:
        return self.tokens / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A trained head and the most tokens that it was trained to draft."""

    drafter: HeadDrafter
    draft_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Recorded answers in order of arrival. By index: grammars of those that kept to one; the target's states."""

    name: str
    answers: Sequence[Answer]
    grammars: Mapping[int, CompiledGrammar] = field(default_factory=dict)
    states: Mapping[int, Sequence[object]] = field(default_factory=dict)

    def recordings(self) -> Iterator[Recording]:
        for answer in self.answers:
            yield Recording(
                request_id=f"{answer.index}",
                prompt_token_ids=answer.prompt,
                token_ids=answer.tokens,
                states=self.states.get(answer.index, ()),
                grammar=self.grammars.get(answer.index),
            )


def replay(
    pool: DrafterPool, stream: Stream, *, cap: int, batch: int, curve: Curve, head_cap: int | None = None
) -> Tally:
    """All answers through one pool. `head_cap`: most tokens of a head's own. Raises ValueError for a batch below 1."""
    caps = {
        drafter.name: cap if head_cap is None or drafter.type is not DrafterType.HEAD else min(cap, head_cap)
        for drafter in pool.drafters
    }
    judged = {f"{answer.index}" for answer in stream.answers if answer.is_judged}
    tally = Tally()
    for step in Replay(pool, caps=caps, batch=batch, step_seconds=curve).steps(stream.recordings()):
        running = len(step.advances)
        for advance in step.advances:
            if advance.request_id in judged:
                tally.steps += 1
                tally.tokens += advance.num_emitted
                tally.drafted += advance.num_drafted
                tally.drafting_seconds += step.drafting_seconds / running
                seconds = (step.seconds or 0.0) / running
                tally.seconds += seconds
                tally.by_request[advance.request_id] = tally.by_request.get(advance.request_id, 0.0) + seconds
    return tally


def pools(head: Head | None) -> dict[str, list[Drafter]]:
    """New drafters of every pool that competes; the trained head is the same in all."""
    found = {name: drafters() for name, drafters in POOLS.items()}
    if head is not None:
        found |= {f"{name} + head": [*drafters(), head.drafter] for name, drafters in POOLS.items()}
        found["head"] = [head.drafter]
    return found


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


def main(
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    profile: Annotated[Path, typer.Option(help="A start-up profile: ~/.cache/bowsprit/profile/*.json.")],
    model: Annotated[str | None, typer.Option(help="The recorded model, to replay grammars too.")] = None,
    head: Annotated[Path | None, typer.Option(help="Folder of a trained head of that model.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence.")] = 16,
    only: Annotated[list[str] | None, typer.Option(help="Streams to replay; all, if none is named.")] = None,
) -> None:
    """Print a table per step-time curve, and how near each pool comes to the best single drafter of each request."""
    loaded = None if model is None else load(ModelSettings(model=model))
    if head is not None and loaded is None:
        raise typer.BadParameter("--head needs the --model that it was trained for")
    trained = None if head is None or loaded is None else _trained(head, loaded)
    recorded = [_stream(name, folder, loaded, has_states=trained is not None) for name in only or STREAMS]
    for title, curve in (
        (f"step times of {profile.name}", profiled(profile)),
        (f"step times of {card_times.NAME}", card_times.card),
    ):
        Console().print(_table(title, recorded, curve, trained, batch=batch, cap=cap))


def _trained(folder: Path, loaded: LoadedModel) -> Head:
    drafter = HeadDrafter(name="head", runner=loaded.runner)
    drafter.swap_in(drafter.load(folder, None, folder.name, loaded.digest))
    config = artifact.HeadConfig.model_validate_json((folder / artifact.CONFIG_FILE).read_bytes())
    return Head(drafter=drafter, draft_tokens=config.draft_tokens)


def _stream(name: str, folder: Path, loaded: LoadedModel | None, *, has_states: bool) -> Stream:
    stream = Stream(name=name, answers=read(folder, name))
    if loaded is None:
        return stream
    asked = next(of for of in streams(learned=300, judged=40, seed=STREAM_SEED) if of.name == name)
    compiler = grammar_compiler(loaded)
    schemas = {answer.index: asked.questions[answer.index].schema for answer in stream.answers}
    return replace(
        stream,
        grammars={index: compiler.compile(json_source(schema)) for index, schema in schemas.items() if schema},
        states=_states(stream.answers, loaded) if has_states else {},
    )


def _states(answers: Sequence[Answer], loaded: LoadedModel) -> dict[int, Sequence[object]]:
    requests = [TokenSequence(prompt_token_ids=answer.prompt, response_token_ids=answer.tokens) for answer in answers]
    longest = max(len(answer.prompt) + len(answer.tokens) for answer in answers)
    found = StateReader(loaded.runner, longest=longest).read(requests, is_late=lambda: False)
    return {answer.index: of.hidden.float().unbind() for answer, of in zip(answers, found, strict=True)}


def _table(title: str, recorded: Sequence[Stream], curve: Curve, head: Head | None, *, batch: int, cap: int) -> Table:
    table = Table("stream", "drafters", "E", "drafted", "goodput / plain", "of step", "of oracle", title=title)
    mixed: dict[str, list[float]] = {}
    for stream in recorded:
        tallies = {
            name: replay(
                DrafterPool(drafters, vocab_size=VOCAB_SIZE),
                stream,
                cap=cap,
                batch=batch,
                curve=curve,
                head_cap=None if head is None else head.draft_tokens,
            )
            for name, drafters in pools(head).items()
        }
        nobody = DrafterPool([], vocab_size=VOCAB_SIZE)
        plain = replay(nobody, replace(stream, grammars={}), cap=0, batch=batch, curve=curve)
        alone = [of.by_request for name, of in tallies.items() if "+" not in name]
        oracle = sum(min(seconds[request_id] for seconds in alone) for request_id in alone[0])
        for name, of in tallies.items():
            mixed.setdefault(name, []).append(plain.seconds / of.seconds)
            table.add_row(
                stream.name,
                name,
                f"{of.acceptance_length:.2f}",
                f"{of.drafted / of.steps:.1f}",
                f"{mixed[name][-1]:.2f}",
                f"{of.drafting_seconds / of.seconds:.1%}",
                f"{oracle / of.seconds:.1%}",
            )
    for name, ratios in mixed.items():
        harmonic = len(ratios) / sum(1 / ratio for ratio in ratios)
        table.add_row("all alike", name, "", "", f"{harmonic:.2f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
