"""Speculation in a running engine, on the five streams: goodput against the same engine without it, and its own cost.

    PYTHONPATH=engine python -m bench.live_streams --model MODEL

Two engines as `serve` assembles them, in one process, each with weights and a KV cache of its own, asked in turn round
by round: one with look-up drafters, windows and a table whose caps are `--cap` at every batch, one without drafters.
The first has answered the stream's learned requests before anything is judged, and goes on learning from the judged
ones; no request is asked twice. A batch begins at once; compared are its decode steps without prompts among their rows,
until fewer than its bucket's sequences are left. Tokens of both engines must be equal. On the hostile stream one round
goes before what is judged: an engine may take 500 drafts to find out.

Decides who is asked what and when. Refuses to know how drafts come about.
"""

from __future__ import annotations

import json
import queue
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from bench.drafter_streams import Question, StreamOf, streams
from bench.recorded_answers import STREAM_SEED, grammar_compiler
from bench.spread import Ratio, ratio
from bench.step_clock import Pace, StepClock, pace
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.grammar import GrammarCompiler
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server import assembly, garbage
from bowsprit_engine.server.structured import json_source
from bowsprit_policy.wire import DrafterCap, PolicyTable, TableRow

DRAFTERS = ["ngram=NGram", "suffix=Suffix"]
MAX_MODEL_LEN = 1024
READY_SECONDS = 120.0
# A service holds prompts back for running streams; then a batch that begins at once never decodes as a whole.
PREFILL_DELAY_STEPS = 1e6
TEACHING_BATCH = 8
ROUNDS = 4
ASKED = {1: 4, 8: 16}  # requests of a round, by batch
HEADER = (
    f"{'stream':10}{'B':>4}{'E':>8}{'drafted':>9}{'plain/s':>10}{'tokens/s':>10}{'ratio':>20}{'of CPU time':>20}"
    f"{'draft ms':>9}{'of step':>9}{'contended':>11}{'equal':>9}"
)
HOSTILE = "noise"
HOSTILE_ASKED = {1: 3, 2: 4, 4: 8, 8: 16, 16: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: its prompt, which holds what the answer was made to begin with, and what the answer must keep to."""

    prompt: tuple[int, ...]
    question: Question
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """In the order of the requests. `num_steps`: decode steps of all of them, the prompt's last row being none."""

    token_ids: tuple[tuple[int, ...], ...]
    num_steps: int
    num_drafted: int

    @property
    def acceptance_length(self) -> float:
        """Tokens per step of a sequence."""
        return sum(len(tokens) - 1 for tokens in self.token_ids) / self.num_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The same requests, asked of both engines."""

    drafted: Answers
    drafted_pace: Pace
    plain: Answers
    plain_pace: Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one stream at one batch; `speedup` is a ratio of medians over rounds, of tokens per second.

    `cpu_speedup`: of tokens per second of the processor, which others' work on this machine disturbs much less.
    """

    stream: str
    batch: int
    num_answers: int
    num_equal: int
    acceptance_length: float
    drafted_per_step: float
    plain_tokens_per_second: float
    tokens_per_second: float
    speedup: Ratio
    cpu_speedup: Ratio
    drafting_seconds: float  # of the processor, per step
    drafting_share: float
    contended_share: float

    @classmethod
    def of(cls, rounds: Sequence[Round], *, stream: str, batch: int) -> Self:
        answers = [
            (drafted, plain)
            for one in rounds
            for drafted, plain in zip(one.drafted.token_ids, one.plain.token_ids, strict=True)
        ]
        num_steps = sum(one.drafted.num_steps for one in rounds)
        speeds = [one.drafted_pace.tokens_per_second for one in rounds]
        plain_speeds = [one.plain_pace.tokens_per_second for one in rounds]
        return cls(
            stream=stream,
            batch=batch,
            num_answers=len(answers),
            num_equal=sum(drafted == plain for drafted, plain in answers),
            acceptance_length=sum(len(drafted) - 1 for drafted, _ in answers) / num_steps,
            drafted_per_step=sum(one.drafted.num_drafted for one in rounds) / num_steps,
            plain_tokens_per_second=statistics.median(plain_speeds),
            tokens_per_second=statistics.median(speeds),
            speedup=ratio(speeds, plain_speeds),
            cpu_speedup=ratio(
                [one.drafted_pace.tokens_per_cpu_second for one in rounds],
                [one.plain_pace.tokens_per_cpu_second for one in rounds],
            ),
            drafting_seconds=statistics.median(one.drafted_pace.drafting_seconds for one in rounds),
            drafting_share=statistics.median(
                one.drafted_pace.drafting_seconds / one.drafted_pace.seconds for one in rounds
            ),
            contended_share=statistics.mean(
                pace.contended_share for one in rounds for pace in (one.drafted_pace, one.plain_pace)
            ),
        )


class Answering:
    """An engine, and a name for each request that it ever got. `compiler`: None where no question has a schema."""

    def __init__(self, engine: Engine, compiler: GrammarCompiler | None) -> None:
        self.engine = engine
        self._compiler = compiler
        self._numbers = count()

    @classmethod
    def started(cls, settings: ServeSettings, model: LoadedModel) -> Self:
        """Raises RuntimeError for an engine that doesn't come up."""
        engine = assembly.assemble(settings, model, lambda _: None)
        engine.start()
        if not engine.wait_ready(READY_SECONDS):
            raise RuntimeError(f"the engine isn't ready after {READY_SECONDS:.0f} s")
        return cls(engine, grammar_compiler(model))

    def answer(self, asked: Sequence[Asked], *, batch: int) -> Answers:
        """All of them, `batch` at once, the next when all of these ended. Raises RuntimeError for one that fails."""
        ended: queue.SimpleQueue[_Open] = queue.SimpleQueue()
        opened = [_Open(ended) for _ in asked]
        for begin in range(0, len(asked), batch):
            together = list(zip(asked, opened, strict=True))[begin : begin + batch]
            for one, request in together:
                self.engine.submit(self._request(one, request))
            for _ in together:
                ended.get()
        last = [request.checked() for request in opened]
        return Answers(
            token_ids=tuple(tuple(request.token_ids) for request in opened),
            num_steps=sum(output.metrics.num_steps for output in last if output.metrics is not None),
            num_drafted=sum(output.metrics.num_draft_tokens for output in last if output.metrics is not None),
        )

    def _request(self, asked: Asked, request: _Open) -> Request:
        schema = asked.question.schema
        return Request(
            request_id=f"bench-{next(self._numbers)}",
            prompt_token_ids=asked.prompt,
            sampling=SamplingParams(
                seed=asked.seed, temperature=asked.question.temperature, max_tokens=asked.max_tokens
            ),
            speculation=SpeculationParams(),
            on_output=request.take,
            grammar=self._compiler.compile(json_source(schema)) if schema and self._compiler else None,
        )


class _Open:
    """A request that is being answered."""

    def __init__(self, ended: queue.SimpleQueue[_Open]) -> None:
        self.token_ids: list[int] = []
        self._ended = ended
        self._last: StepOutput | None = None

    def take(self, output: StepOutput) -> None:
        """Called by the engine's thread."""
        self.token_ids.extend(output.token_ids)
        if output.finish_reason is not None:
            self._last = output
            self._ended.put(self)

    def checked(self) -> StepOutput:
        if self._last is None or self._last.error is not None:
            raise RuntimeError(f"a request ended without its answer: {self._last}")
        return self._last


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


def in_turn(
    clock: StepClock, drafted: Answering, plain: Answering, asked: Sequence[Asked], *, batch: int, number: int
) -> Round:
    """The same requests of both engines; who begins moves on from round to round."""
    answers: dict[Answering, Answers] = {}
    for one in (drafted, plain) if number % 2 else (plain, drafted):
        clock.take(one.engine.stats().boot_id)
        answers[one] = one.answer(asked, batch=batch)
    paces = {one: pace(clock.take(one.engine.stats().boot_id), batch=batch) for one in answers}
    return Round(drafted=answers[drafted], drafted_pace=paces[drafted], plain=answers[plain], plain_pace=paces[plain])


def learned_then_judged(
    clock: StepClock, drafted: Answering, plain: Answering, stream: Sequence[Asked], *, name: str, rounds: int
) -> Iterator[Figures]:
    """The last of the stream are judged, at each batch so many."""
    num_judged = rounds * sum(ASKED.values())
    drafted.answer(stream[:-num_judged], batch=TEACHING_BATCH)
    judged = iter(stream[-num_judged:])
    for batch, num_asked in ASKED.items():
        all_rounds = [
            in_turn(clock, drafted, plain, list(islice(judged, num_asked)), batch=batch, number=number)
            for number in range(rounds)
        ]
        yield Figures.of(all_rounds, stream=name, batch=batch)


def hostile(
    clock: StepClock, drafted: Answering, plain: Answering, stream: Sequence[Asked], *, name: str, rounds: int
) -> Iterator[Figures]:
    """The few questions over and over, each time with another seed: sampled answers have nothing in common."""
    asked = (replace(one, seed=seed) for seed, one in enumerate(cycle(stream)))
    for batch, num_asked in HOSTILE_ASKED.items():
        all_rounds = [
            in_turn(clock, drafted, plain, list(islice(asked, num_asked)), batch=batch, number=number)
            for number in range(rounds + 1)
        ]
        yield Figures.of(all_rounds[1:], stream=name, batch=batch)


def table_of_caps(drafters: Sequence[DrafterChoice], cap: int) -> PolicyTable:
    """What the operator would push, with caps that are no limit: windows decide within them."""
    caps = tuple(DrafterCap(name=drafter.name, draft_tokens=cap) for drafter in drafters)
    return PolicyTable(revision=1, table=(TableRow(drafters=caps),))


def _settings(model: str, **changes: Any) -> ServeSettings:
    batch = max(HOSTILE_ASKED)
    return ServeSettings(
        model=model,
        max_batch_size=batch,
        max_model_len=MAX_MODEL_LEN,
        prefill_delay_steps=PREFILL_DELAY_STEPS,
        **changes,
    )


def _row(one: Figures) -> str:
    wall, cpu = (f"{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]" for of in (one.speedup, one.cpu_speedup))
    return (
        f"{one.stream:10}{one.batch:4}{one.acceptance_length:8.2f}{one.drafted_per_step:9.1f}"
        f"{one.plain_tokens_per_second:10.0f}{one.tokens_per_second:10.0f}{wall:>20}{cpu:>20}"
        f"{one.drafting_seconds * 1e3:9.2f}{one.drafting_share:9.1%}{one.contended_share:11.0%}"
        f"{f'{one.num_equal}/{one.num_answers}':>9}"
    )


def main(
    model: Annotated[str, typer.Option(help="A .gguf file or a Hugging Face folder.")],
    only: Annotated[list[str] | None, typer.Option("--stream", help="Streams, all five if not given.")] = None,
    learned: Annotated[int, typer.Option(help="Requests before the judged ones, where traffic teaches.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Judged rounds per stream and batch.")] = ROUNDS,
    drafter: Annotated[list[str], typer.Option(help="As `serve` takes them.")] = DRAFTERS,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where all figures go.")] = None,
) -> None:
    """Print a row per stream and batch; exit with 1 when an answer was changed by speculation."""
    drafting = _settings(model, drafter=tuple(map(DrafterChoice.read, drafter)), draft_tokens_max=cap)
    without = _settings(model, drafter=(), draft_tokens_max=cap, speculation="off")
    loaded = assembly.load(drafting), assembly.load(without)
    garbage.leave_out_what_is_here()
    found: list[Figures] = []
    typer.echo(HEADER)
    with StepClock().listening() as clock:
        for stream in streams(learned=learned, judged=rounds * sum(ASKED.values()), seed=STREAM_SEED):
            if only and stream.name not in only:
                continue
            drafted, plain = Answering.started(drafting, loaded[0]), Answering.started(without, loaded[1])
            drafted.engine.set_policy(table_of_caps(drafting.drafter, cap))
            judge = hostile if stream.name == HOSTILE else learned_then_judged
            asked = list(askable(loaded[0], stream))
            for figures in judge(clock, drafted, plain, asked, name=stream.name, rounds=rounds):
                typer.echo(_row(figures))
                found.append(figures)
            drafted.engine.stop()
            plain.engine.stop()
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(one) for one in found], indent=1))
    if any(one.num_equal < one.num_answers for one in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
