"""Two engines in one process, stepped in turn by one thread on the same requests: what speculation is worth.

Decides whose step is next: that of the engine which has emitted fewer of the batch's tokens; of equals, that which
didn't step last. Engines that emit as much per step alternate strictly, one that emits three times as much steps once
in four times, and both are always at the same place of the same answers. So whatever disturbs the machine for longer
than a step disturbs both alike. A batch begins at once, compared are its decode steps without prompts among their rows
until fewer than its bucket's sequences are left, and goodput is tokens per second of their summed times. Refuses to
know what is asked and how drafts come about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import torch

from bench.drafter_streams import Question
from bench.recorded_answers import grammar_compiler
from bench.spread import Ratio, bootstrapped
from bench.step_clock import PARTS, Step, StepClock
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.grammar import GrammarCompiler
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server import assembly
from bowsprit_engine.server.structured import json_source


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


class SteppedEngine:
    """An engine without a thread of its own, and a name for each request that it ever got.

    `compiler`: None where no question has a schema.
    """

    def __init__(self, engine: Engine, compiler: GrammarCompiler | None) -> None:
        self.engine = engine
        self.num_tokens = 0  # of the batch
        self._compiler = compiler
        self._numbers = count()
        self._opened: list[_Open] = []

    @classmethod
    def prepared(cls, settings: ServeSettings, model: LoadedModel) -> Self:
        engine = assembly.assemble(settings, model, lambda _: None)
        with torch.inference_mode():
            engine.prepare()
        return cls(engine, grammar_compiler(model))

    @property
    def is_answering(self) -> bool:
        return any(request.last is None for request in self._opened)

    @property
    def num_opportunities(self) -> int:
        """Sequence-steps in which a drafter could have drafted so far."""
        return max((drafter.opportunities for drafter in self.engine.drafters()), default=0)

    def begin(self, asked: Sequence[Asked]) -> None:
        """All of them at once."""
        self.num_tokens = 0
        self._opened = [_Open() for _ in asked]
        for one, request in zip(asked, self._opened, strict=True):
            self.engine.submit(self._request(one, request))

    def advance(self) -> None:
        """One step."""
        with torch.inference_mode():
            self.engine.advance()
        self.num_tokens = sum(len(request.token_ids) for request in self._opened)

    def answers(self) -> Answers:
        """Of the batch that has ended. Raises RuntimeError for a request that failed."""
        metrics = [request.checked().metrics for request in self._opened]
        return Answers(
            token_ids=tuple(tuple(request.token_ids) for request in self._opened),
            num_steps=sum(one.num_steps for one in metrics if one is not None),
            num_drafted=sum(one.num_draft_tokens for one in metrics if one is not None),
        )

    def answer(self, asked: Sequence[Asked], *, batch: int) -> list[Answers]:
        """All of them, `batch` at once, the next when all of these ended."""
        found = []
        for first in range(0, len(asked), batch):
            self.begin(asked[first : first + batch])
            while self.is_answering:
                self.advance()
            found.append(self.answers())
        return found

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
    """A request that is being answered, and its last output once it ended."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.last: StepOutput | None = None

    def take(self, output: StepOutput) -> None:
        self.token_ids.extend(output.token_ids)
        if output.finish_reason is not None:
            self.last = output

    def checked(self) -> StepOutput:
        if self.last is None or self.last.error is not None:
            raise RuntimeError(f"a request ended without its answer: {self.last}")
        return self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one engine made of a batch: its answers, and sums over the steps that are compared."""

    answers: Answers
    num_steps: int
    num_tokens: int
    seconds: float
    cpu_seconds: float
    num_calm: int  # steps whose cores nobody else had part of
    calm_seconds: float
    thread_seconds: float
    part_seconds: Mapping[str, float]
    drafting_seconds: float

    @classmethod
    def of(cls, answers: Answers, steps: Sequence[Step]) -> Self:
        calm = [one.seconds for one in steps if not one.is_contended]
        return cls(
            answers=answers,
            num_steps=len(steps),
            num_tokens=sum(one.tokens for one in steps),
            seconds=sum(one.seconds for one in steps),
            cpu_seconds=sum(one.cpu_seconds for one in steps),
            num_calm=len(calm),
            calm_seconds=sum(calm),
            thread_seconds=sum(one.thread_seconds for one in steps),
            part_seconds={part: sum(one.part_seconds.get(part, 0.0) for one in steps) for part in PARTS},
            drafting_seconds=sum(one.drafting_seconds for one in steps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One batch, answered by both engines."""

    drafted: Side
    plain: Side


def in_turn(
    clock: StepClock, drafted: SteppedEngine, plain: SteppedEngine, asked: Sequence[Asked], *, drafted_begins: bool
) -> Block:
    """Answer one batch by both."""
    both = (drafted, plain)
    for one in both:
        clock.take(one.engine.stats().boot_id)
        one.begin(asked)
    last = plain if drafted_begins else drafted
    while stepping := [one for one in both if one.is_answering]:
        last = min(stepping, key=lambda one: (one.num_tokens, one is last))
        last.advance()
    sides = {one: _side(clock, one, batch=len(asked)) for one in both}
    return Block(drafted=sides[drafted], plain=sides[plain])


def _side(clock: StepClock, one: SteppedEngine, *, batch: int) -> Side:
    steps = [step for step in clock.take(one.engine.stats().boot_id) if step.batch == batch]
    return Side.of(one.answers(), steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Microseconds of a step, on average: of the clock on the wall, and of the engine's thread by part."""

    step: float
    by_part: Mapping[str, float]

    @classmethod
    def of(cls, sides: Sequence[Side]) -> Self:
        per_step = 1e6 / sum(one.num_steps for one in sides)
        by_part = {part: sum(one.part_seconds[part] for one in sides) * per_step for part in PARTS}
        whole = sum(one.thread_seconds for one in sides) * per_step
        return cls(
            step=sum(one.seconds for one in sides) * per_step,
            by_part=by_part | {"rest": whole - sum(by_part.values())},
        )

    @property
    def beside_forward(self) -> float:
        return sum(of for part, of in self.by_part.items() if part != "forward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one stream at one batch. Ratios to the engine without drafts, their intervals by bootstrap over batches.

    `goodput`: of tokens per second. `calm_goodput`: by the mean time of steps that no other work disturbed.
    `cpu_goodput`: of tokens per second of the processor, which others' work disturbs much less than the clock.
    """

    stream: str
    batch: int
    num_answers: int
    num_equal: int
    num_step_pairs: int
    acceptance_length: float
    drafted_per_step: float
    plain_tokens_per_second: float
    goodput: Ratio
    calm_goodput: Ratio | None  # None where one of both had no such step in some batch
    cpu_goodput: Ratio
    drafting_share: float  # of processor time of the engine's thread in the step's time
    contended_share: float
    spent: Spent
    plain_spent: Spent

    @classmethod
    def of(cls, blocks: Sequence[Block], *, stream: str, batch: int) -> Self:
        """Raises ValueError without a block."""
        drafted, plain = [block.drafted for block in blocks], [block.plain for block in blocks]
        pairs = [
            pair
            for one, other in zip(drafted, plain, strict=True)
            for pair in zip(one.answers.token_ids, other.answers.token_ids, strict=True)
        ]
        num_steps = sum(one.answers.num_steps for one in drafted)
        all_steps = sum(side.num_steps for side in (*drafted, *plain))
        is_calm = all(side.num_calm for side in (*drafted, *plain))
        return cls(
            stream=stream,
            batch=batch,
            num_answers=len(pairs),
            num_equal=sum(one == other for one, other in pairs),
            num_step_pairs=min(sum(side.num_steps for side in sides) for sides in (drafted, plain)),
            acceptance_length=sum(len(one) - 1 for one, _ in pairs) / num_steps,
            drafted_per_step=sum(one.answers.num_drafted for one in drafted) / num_steps,
            plain_tokens_per_second=_rate(plain),
            goodput=bootstrapped(blocks, lambda of: _ratio(of, _rate)),
            calm_goodput=bootstrapped(blocks, lambda of: _ratio(of, _calm_rate)) if is_calm else None,
            cpu_goodput=bootstrapped(blocks, lambda of: _ratio(of, _cpu_rate)),
            drafting_share=sum(one.drafting_seconds for one in drafted) / sum(one.seconds for one in drafted),
            contended_share=1 - sum(side.num_calm for side in (*drafted, *plain)) / all_steps,
            spent=Spent.of(drafted),
            plain_spent=Spent.of(plain),
        )


def _ratio(blocks: Sequence[Block], rate: Callable[[Sequence[Side]], float]) -> float:
    return rate([block.drafted for block in blocks]) / rate([block.plain for block in blocks])


def _rate(sides: Sequence[Side]) -> float:
    return sum(one.num_tokens for one in sides) / sum(one.seconds for one in sides)


def _cpu_rate(sides: Sequence[Side]) -> float:
    return sum(one.num_tokens for one in sides) / sum(one.cpu_seconds for one in sides)


def _calm_rate(sides: Sequence[Side]) -> float:
    """All steps' tokens per step, by the calm ones' seconds per step."""
    per_step = sum(one.num_tokens for one in sides) / sum(one.num_steps for one in sides)
    return per_step * sum(one.num_calm for one in sides) / sum(one.calm_seconds for one in sides)
