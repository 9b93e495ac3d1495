"""`bowsprit-engine bench`: one model, an engine per mode, the same requests in turn, and a table.

The engines share the model and its KV cache and work one at a time; what one has left in the cache is no other's, so
none keeps prefixes, and every prompt is computed in every round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from bowsprit_engine.benchmark import closed_loop
from bowsprit_engine.benchmark.comparison import PLAIN, Sample, Summary, order_of, summarise
from bowsprit_engine.benchmark.prompts import BUILT_IN, encode, read_prompts
from bowsprit_engine.config import BenchSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import SamplingParams
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server import assembly
from bowsprit_engine.speculation.table import SpeculationMode
from bowsprit_policy.wire import DrafterLoad, DrafterType

READY_SECONDS = 300.0
SEED = 0


def run(settings: BenchSettings) -> None:
    """Load, measure, print. Raises EngineError."""
    console = Console(soft_wrap=True, markup=False)
    model = assembly.load(settings)
    prompts = _prompts(settings, model)
    console.print(
        f"{settings.model}: {model.runner.accelerator}, {model.runner.dtype}; {len(prompts)} prompts of "
        f"{min(map(len, prompts))} to {max(map(len, prompts))} tokens, {settings.max_tokens} tokens each, "
        f"temperature {settings.temperature:g}, {settings.rounds} rounds"
    )
    with ExitStack() as stack:
        engines = {str(mode): _started(settings, model, mode, stack) for mode in settings.modes}
        summaries = _measure(settings, engines, prompts, console)
    console.print(_table(summaries))
    console.print(
        "tok/s: medians over the rounds, prompts in the time. E: tokens per sequence-step. K: draft tokens per "
        "sequence-step.\nratio: to plain (off) in the same round, median [least, most]. text: answers equal to plain's."
    )
    if settings.json_file is not None:
        lines = [asdict(summary) for summary in summaries]
        settings.json_file.write_text(json.dumps(lines, indent=2) + "\n")


def _prompts(settings: BenchSettings, model: LoadedModel) -> list[tuple[int, ...]]:
    read = BUILT_IN if settings.prompts is None else read_prompts(settings.prompts)
    prompts = [encode(prompt, model.tokenizer) for prompt in read]
    room = model.config.max_model_len - settings.max_tokens
    fitting = [prompt for prompt in prompts if 0 < len(prompt) <= room]
    if not fitting:
        raise CallerError(
            f"no prompt fits: {len(prompts)} of {min(map(len, prompts))} tokens and more, max_tokens "
            f"{settings.max_tokens} leaves room for {room}",
            param="max_tokens",
        )
    return fitting * settings.repeat


def _started(settings: BenchSettings, model: LoadedModel, mode: SpeculationMode, stack: ExitStack) -> Engine:
    most = max(settings.max_batch_size, *settings.batch_sizes)
    engine = assembly.engine_of(
        settings.model_copy(update={"prefix_cache": "off", "max_batch_size": most}),
        model,
        model_name="bench",
        speculation=mode,
        max_waiting=most,  # one that ends makes room a step later
        on_finished=lambda finished: None,
    )
    engine.start()
    stack.callback(engine.stop)
    if not engine.wait_ready(READY_SECONDS):
        raise WorldError(f"the engine is not ready after {READY_SECONDS:.0f} s", reason="EngineFailure")
    if settings.speculator_uri is not None:
        for drafter in settings.drafter:
            if drafter.type is DrafterType.HEAD:
                engine.load_drafter(drafter.name, DrafterLoad(revision="bench", uri=settings.speculator_uri))
    return engine


def _measure(
    settings: BenchSettings, engines: Mapping[str, Engine], prompts: Sequence[tuple[int, ...]], console: Console
) -> list[Summary]:
    sampling = SamplingParams(
        seed=SEED, temperature=settings.temperature, max_tokens=settings.max_tokens, ignore_eos=settings.ignore_eos
    )
    samples: dict[tuple[str, int], list[Sample]] = {(m, b): [] for b in settings.batch_sizes for m in engines}
    texts: dict[tuple[str, int], list[tuple[int, ...]]] = {}
    with console.status("warming up") as status:
        for name, engine in engines.items():
            closed_loop.run(engine, prompts[:1], batch_size=1, sampling=sampling, name=f"warm-up-{name}")
        for number in range(settings.rounds):
            for batch_size in settings.batch_sizes:
                for mode in order_of(list(engines), number):
                    status.update(f"round {number + 1} of {settings.rounds}: {mode}, {batch_size} at a time")
                    name = f"{mode}-{batch_size}-{number}"
                    measured = closed_loop.run(
                        engines[mode], prompts, batch_size=batch_size, sampling=sampling, name=name
                    )
                    samples[mode, batch_size].append(_sample(measured))
                    texts[mode, batch_size] = [answer.token_ids for answer in measured.answers]
    plain = next((text for (mode, _), text in texts.items() if mode == PLAIN), None)
    num_equal = (
        {}
        if plain is None
        else {key: sum(a == b for a, b in zip(text, plain, strict=True)) for key, text in texts.items()}
    )
    return summarise(samples, num_equal, num_answers=len(prompts))


def _sample(measured: closed_loop.Run) -> Sample:
    """Requests of one token have no step."""
    steps = max(1, measured.num_steps)
    return Sample(
        tokens_per_second=measured.num_tokens / measured.seconds,
        acceptance_length=(measured.num_tokens - len(measured.answers)) / steps,
        drafted=measured.num_draft_tokens / steps,
        step_seconds=measured.decode_seconds / steps,
    )


def _table(summaries: Sequence[Summary]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("batch", "mode", "tok/s", "E", "K", "ms/step", "ratio", "text"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for summary in summaries:
        sample, ratio = summary.sample, summary.ratio
        table.add_row(
            str(summary.batch_size),
            summary.mode,
            f"{sample.tokens_per_second:.1f}",
            f"{sample.acceptance_length:.2f}",
            f"{sample.drafted:.2f}",
            f"{1e3 * sample.step_seconds:.1f}",
            "–" if ratio is None else f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]",
            "–" if summary.num_equal is None else f"{summary.num_equal}/{summary.num_answers}",
        )
    return table
