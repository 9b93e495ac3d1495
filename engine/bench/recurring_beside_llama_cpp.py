"""Recurring tool calls beside llama.cpp: our engine with speculation against its plain decoding, in one run.

    PYTHONPATH=engine python -m bench.recurring_beside_llama_cpp

All in bfloat16 with the same bits, one request at a time, in turn: our engine with look-up, which has answered the
stream's learned requests; our engine without drafters; llama.cpp. What ours answers keeps to the call's schema.
llama.cpp gets the same prompt and emits as many tokens of its own choice: a plain step takes as long whichever token it
emits, and its own grammars would only slow it down. Compared is decoding alone (bench/window.py), prompts excepted.

Decides what is compared. Refuses to know how drafts come about.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer

from bench import plan
from bench.drafter_streams import streams
from bench.end_signal import leaving_workers_ended
from bench.exported_weights import export, packaged_model
from bench.installation import ROOT, cache_folder, command_of, python_of, variables_of
from bench.live_streams import DRAFTERS, MAX_MODEL_LEN, TEACHING_BATCH, askable, table_of_caps
from bench.paired_steps import Asked, SteppedEngine
from bench.protocol import Answer, Emission, Task
from bench.recorded_answers import STREAM_SEED
from bench.spread import Ratio, bootstrapped
from bench.window import Decoding, decoding
from bench.worker_process import WorkerProcess
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.server import assembly, garbage

STREAM = "recurring"
SECONDS = 600.0  # llama.cpp may take to load, and for an answer
ASKED = "asked: 4 of llama.cpp's plain, 2.65 of our own"


class Peer(Protocol):
    """A worker of another engine."""

    def ask(self, task: Task, *, timeout_seconds: float) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One request's decoding by each."""

    speculative: Decoding
    plain: Decoding
    theirs: Decoding
    is_equal: bool  # our two answers


def answered(engine: SteppedEngine, asked: Asked) -> Answer:
    """One request by our engine, and when its tokens came."""
    begin = time.perf_counter()
    engine.begin([asked])
    emissions: list[Emission] = []
    while engine.is_answering:
        before = engine.num_tokens
        engine.advance()
        if engine.num_tokens > before:
            emissions.append(Emission(seconds=time.perf_counter() - begin, num_tokens=engine.num_tokens))
    return Answer(
        token_ids=engine.answers().token_ids, emissions=(tuple(emissions),), seconds=time.perf_counter() - begin
    )


def asking(speculative: SteppedEngine, plain: SteppedEngine, peer: Peer, asked: Asked) -> Asking:
    """Raises ValueError for an answer of a single token, which has no decoding."""
    ours, without = answered(speculative, asked), answered(plain, asked)
    task = Task(prompts=(asked.prompt,), max_tokens=len(without.token_ids[0]))
    theirs = peer.ask(task, timeout_seconds=SECONDS)
    return Asking(
        speculative=decoding(ours),
        plain=decoding(without),
        theirs=decoding(theirs),
        is_equal=ours.token_ids == without.token_ids,
    )


def ratios(askings: Sequence[Asking]) -> tuple[Ratio, Ratio]:
    """Of tokens per second over all requests: to llama.cpp's, and to our own plain decoding."""
    return (
        bootstrapped(askings, lambda some: _rate([a.speculative for a in some]) / _rate([a.theirs for a in some])),
        bootstrapped(askings, lambda some: _rate([a.speculative for a in some]) / _rate([a.plain for a in some])),
    )


def _rate(of: Sequence[Decoding]) -> float:
    return sum(one.num_tokens for one in of) / sum(one.seconds for one in of)


def _settings(model: Path, **changes: object) -> ServeSettings:
    return ServeSettings.model_validate(
        {"model": str(model), "max_batch_size": TEACHING_BATCH, "max_model_len": MAX_MODEL_LEN, **changes}
    )


def _told(name: str, of: Ratio) -> str:
    return f"{name}: {of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"


@leaving_workers_ended()
def main(
    learned: Annotated[int, typer.Option(help="Requests before the judged ones.")] = 300,
    judged: Annotated[int, typer.Option(min=1, help="Requests compared.")] = 24,
    drafter: Annotated[list[str], typer.Option(help="As `serve` takes them.")] = DRAFTERS,
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a sequence.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder of llama.cpp's log.")] = ROOT / "out" / "bench",
) -> None:
    """Print both ratios with their 95 % intervals over requests; exit with 1 when speculation changed an answer."""
    out.mkdir(parents=True, exist_ok=True)
    weights = export(packaged_model(), cache_folder())
    choices = tuple(map(DrafterChoice.read, drafter))
    with_drafts = _settings(weights.hf_folder, drafter=choices, draft_tokens_max=cap)
    without = _settings(weights.hf_folder, drafter=(), draft_tokens_max=cap, speculation="off")
    loaded = assembly.load(with_drafts), assembly.load(without)
    garbage.leave_out_what_is_here()
    speculative = SteppedEngine.prepared(with_drafts, loaded[0])
    plain = SteppedEngine.prepared(without, loaded[1])
    speculative.engine.set_policy(table_of_caps(choices, cap))
    (stream,) = (one for one in streams(learned=learned, judged=judged, seed=STREAM_SEED) if one.name == STREAM)
    asked = list(askable(loaded[0], stream))
    speculative.answer(asked[:-judged], batch=TEACHING_BATCH)
    participant = next(one for one in plan.PARTICIPANTS if one.name == plan.LLAMA_CPP)
    python = python_of(participant.peer, cache=cache_folder(), log=out / f"install-{participant.peer}.log")
    with WorkerProcess(
        command_of(participant, python, weights),
        env=variables_of(participant.peer, python, cache=cache_folder(), base=os.environ),
        log=out / "recurring-llama.cpp.log",
    ) as peer:
        typer.echo(peer.hello(timeout_seconds=SECONDS).version)
        askings = [asking(speculative, plain, peer, one) for one in asked[-judged:]]
    to_theirs, to_plain = ratios(askings)
    num_equal = sum(one.is_equal for one in askings)
    typer.echo(f"{STREAM}, B=1, {len(askings)} requests after {len(asked) - judged}; {ASKED}")
    typer.echo(f"{_told('of llama.cpp', to_theirs)}; {_told('of our plain', to_plain)}; equal {num_equal}")
    if num_equal < len(askings):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
