"""Speculation in a running engine, on the five streams: goodput against the same engine without it, and its own cost.

    PYTHONPATH=engine python -m bench.live_streams --model MODEL

Two engines as `serve` assembles them, in one process, on the same weights (bench/shared_runner.py), stepped in turn
(bench/paired_steps.py): one with look-up drafters, windows and a table whose caps are `--cap` at every batch, one
without drafters. The first has answered the stream's learned requests before anything is judged, and goes on learning
from the judged ones; no request is asked twice. Tokens of both engines must be equal. On the hostile stream both
engines are new at every batch, and batches that begin before the 500th opportunity to draft have a row of their own: an
engine may take 500 drafts to find out.

Decides who is asked what and when. Refuses to know how steps are compared and how drafts come about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.drafter_streams import StreamOf, streams
from bench.paired_steps import Asked, Block, Figures, Spent, SteppedEngine, in_turn
from bench.recorded_answers import STREAM_SEED, grammar_compiler
from bench.shared_runner import halves
from bench.spread import Ratio
from bench.step_clock import PARTS, StepClock
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server import assembly, garbage
from bowsprit_engine.server.structured import json_source
from bowsprit_policy.wire import DrafterCap, PolicyTable, TableRow

DRAFTERS = ["ngram=NGram", "suffix=Suffix"]
MAX_MODEL_LEN = 1024
# A service holds prompts back for running streams; then a batch that begins at once never decodes as a whole.
PREFILL_DELAY_STEPS = 1e6
TEACHING_BATCH = 8
ROUNDS = 4
ASKED = {1: 4, 8: 16}  # requests of a round, by batch
HOSTILE = "noise"
HOSTILE_BATCHES = (1, 2, 4, 8, 16)
HOSTILE_BLOCKS = 4  # batches of a round
LEARNING = 500  # opportunities
HEADER = (
    f"{'stream':22}{'B':>3}{'E':>7}{'drafted':>9}{'plain/s':>9}{'goodput':>22}{'of calm steps':>22}{'of CPU time':>22}"
    f"{'drafting':>9}{'contended':>10}{'pairs':>7}{'equal':>8}"
)
SPENT_HEADER = f"{'  microseconds per step':24}{'all':>8}{'beside':>8}" + "".join(
    f"{part:>9}" for part in (*PARTS, "rest")
)

Prepared = Callable[[], tuple[SteppedEngine, SteppedEngine]]  # new engines, the one with drafters first


def askable(model: LoadedModel, stream: StreamOf) -> Iterator[Asked]:
    """The stream's questions as prompts; those whose schema the library refuses, or that are too long, are left out."""
    compiler = grammar_compiler(model)
    for seed, question in enumerate(stream.questions):
        text = model.tokenizer.apply_chat_template(question.messages, tokenize=False, add_generation_prompt=True)
        prompt = tuple(model.tokenizer.encode(text + question.begins, add_special_tokens=False))
        try:
            if question.schema:
                compiler.compile(json_source(question.schema))
        except CallerError:
            continue
        if len(prompt) + stream.max_tokens < MAX_MODEL_LEN:
            yield Asked(prompt=prompt, question=question, seed=seed, max_tokens=stream.max_tokens)


def learned_then_judged(
    clock: StepClock, prepared: Prepared, stream: Sequence[Asked], *, name: str, rounds: int, batches: Sequence[int]
) -> Iterator[Figures]:
    """The last of the stream are judged, at each batch so many."""
    drafted, plain = prepared()
    num_judged = rounds * sum(ASKED.values())
    drafted.answer(stream[:-num_judged], batch=TEACHING_BATCH)
    judged = iter(stream[-num_judged:])
    for batch, num_asked in ASKED.items():
        asked = list(islice(judged, num_asked * rounds))
        if batch in batches:
            blocks = [
                in_turn(clock, drafted, plain, asked[first : first + batch], drafted_begins=first // batch % 2 == 0)
                for first in range(0, len(asked) - batch + 1, batch)
            ]
            yield Figures.of(blocks, stream=name, batch=batch)


def hostile(
    clock: StepClock, prepared: Prepared, stream: Sequence[Asked], *, name: str, rounds: int, batches: Sequence[int]
) -> Iterator[Figures]:
    """The few questions over and over, each time with another seed: sampled answers have nothing in common."""
    asked = (replace(one, seed=seed) for seed, one in enumerate(cycle(stream)))
    for batch in (batch for batch in HOSTILE_BATCHES if batch in batches):
        drafted, plain = prepared()
        learning: list[Block] = []
        steady: list[Block] = []
        while len(steady) < rounds * HOSTILE_BLOCKS:
            blocks = learning if drafted.num_opportunities < LEARNING else steady
            together = list(islice(asked, batch))
            blocks.append(in_turn(clock, drafted, plain, together, drafted_begins=len(blocks) % 2 == 0))
        yield Figures.of(learning, stream=f"{name}, first {LEARNING}", batch=batch)
        yield Figures.of(steady, stream=name, batch=batch)


def table_of_caps(drafters: Sequence[DrafterChoice], cap: int) -> PolicyTable:
    """What the operator would push, with caps that are no limit: windows decide within them."""
    caps = tuple(DrafterCap(name=drafter.name, draft_tokens=cap) for drafter in drafters)
    return PolicyTable(revision=1, table=(TableRow(drafters=caps),))


def _settings(model: str, **changes: Any) -> ServeSettings:
    return ServeSettings(
        model=model,
        max_batch_size=max(HOSTILE_BATCHES),
        max_model_len=MAX_MODEL_LEN,
        prefill_delay_steps=PREFILL_DELAY_STEPS,
        **changes,
    )


def _row(one: Figures) -> str:
    ratios = "".join(f"{_interval(of):>22}" for of in (one.goodput, one.calm_goodput, one.cpu_goodput))
    return (
        f"{one.stream:22}{one.batch:3}{one.acceptance_length:7.2f}{one.drafted_per_step:9.2f}"
        f"{one.plain_tokens_per_second:9.0f}{ratios}{one.drafting_share:9.1%}{one.contended_share:10.0%}"
        f"{one.num_step_pairs:7}{f'{one.num_equal}/{one.num_answers}':>8}"
    )


def _interval(of: Ratio | None) -> str:
    return "-" if of is None else f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]"


def _spent_row(name: str, spent: Spent) -> str:
    parts = "".join(f"{of:9.0f}" for of in spent.by_part.values())
    return f"{name:24}{spent.step:8.0f}{spent.beside_forward:8.0f}{parts}"


def main(
    model: Annotated[str, typer.Option(help="A .gguf file or a Hugging Face folder.")],
    only: Annotated[list[str] | None, typer.Option("--stream", help="Streams, all five if not given.")] = None,
    learned: Annotated[int, typer.Option(help="Requests before the judged ones, where traffic teaches.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Judged rounds per stream and batch.")] = ROUNDS,
    batches: Annotated[list[int] | None, typer.Option("--batch", help="All of a stream's if not given.")] = None,
    drafter: Annotated[list[str], typer.Option(help="As `serve` takes them.")] = DRAFTERS,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where all figures go.")] = None,
) -> None:
    """Print per stream and batch a row, and what a step spent; exit with 1 when speculation changed an answer."""
    drafting = _settings(model, drafter=tuple(map(DrafterChoice.read, drafter)), draft_tokens_max=cap)
    without = _settings(model, drafter=(), draft_tokens_max=cap, speculation="off")
    loaded = assembly.load(drafting)
    runners = halves(loaded.runner)
    garbage.leave_out_what_is_here()

    def prepared() -> tuple[SteppedEngine, SteppedEngine]:
        drafted, plain = (
            SteppedEngine.prepared(settings, replace(loaded, runner=runner))
            for settings, runner in zip((drafting, without), runners, strict=True)
        )
        drafted.engine.set_policy(table_of_caps(drafting.drafter, cap))
        return drafted, plain

    found: list[Figures] = []
    typer.echo(f"{HEADER}\n{SPENT_HEADER}")
    with StepClock().listening() as clock:
        for stream in streams(learned=learned, judged=rounds * sum(ASKED.values()), seed=STREAM_SEED):
            if only and stream.name not in only:
                continue
            judge = hostile if stream.name == HOSTILE else learned_then_judged
            asked = list(askable(loaded, stream))
            for figures in judge(
                clock, prepared, asked, name=stream.name, rounds=rounds, batches=batches or HOSTILE_BATCHES
            ):
                typer.echo(f"{_row(figures)}\n{_spent_row('  drafted', figures.spent)}")
                typer.echo(_spent_row("  plain", figures.plain_spent))
                found.append(figures)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(one) for one in found], indent=1))
    if any(one.num_equal < one.num_answers for one in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
