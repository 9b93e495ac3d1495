"""What drafts of the head that serves cost beside the target's own step: in batches, greedy and sampled.

    PYTHONPATH=engine python -m bench.served_head_cost --model MODEL

Decides what is timed: a whole call from contexts to drafts, right after a step of the same batch, by the means that
serve here and by torch's operators in turn. Weights are random: time doesn't depend on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.models import load_model
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.head_in_torch import HeadInTorch
from bowsprit_engine.speculation.drafters.serving_head import HeadArithmetic, serving_head
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows

CONTEXT = 256
WIDTH, DRAFT_VOCABULARY = 512, 2048
DRAFT_LENGTHS = (4, 8)
BATCHES = (1, 8)
TEMPERATURES = (0.0, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call: so many sequences, each of which wants so many tokens."""

    batch: int
    temperature: float
    num_tokens: int


CASES = tuple(
    Case(batch=batch, temperature=temperature, num_tokens=num_tokens)
    for batch in BATCHES
    for temperature in TEMPERATURES
    for num_tokens in DRAFT_LENGTHS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians: seconds of a call and of a step of its batch, and of what one took of the step before it."""

    seconds: float
    step_seconds: float
    of_step: float


def random_head(runner: Runner) -> RecurrentHead:
    """On the target's first tokens."""
    config, ids = runner.config, torch.arange(DRAFT_VOCABULARY)
    target = TargetRows(draft_token_ids=ids, lm_head=runner.lm_head_rows(ids), final_norm=runner.final_norm_weight())
    shape = HeadShape(hidden_size=config.hidden_size, intermediate_size=WIDTH, rms_norm_eps=config.rms_norm_eps)
    return RecurrentHead(shape, target)


def contexts_of(case: Case, states: Tensor) -> list[DraftContext]:
    """The last token of every other sequence is outside the draft vocabulary."""
    return [
        DraftContext(
            request_id=str(index),
            token_ids=(5 if index % 2 == 0 else DRAFT_VOCABULARY + index,),
            hidden=states[index],
            max_draft_tokens=case.num_tokens,
            seed=index,
            temperature=case.temperature,
        )
        for index in range(case.batch)
    ]


def step_of(runner: Runner, batch: int) -> Callable[[], object]:
    """One row of each sequence after CONTEXT tokens; the KV cache is there."""
    blocks = CONTEXT // BLOCK_SIZE + 1
    return partial(
        runner.forward,
        StepBatch(
            token_ids=torch.full((batch,), 5),
            positions=torch.full((batch,), CONTEXT, dtype=torch.int32),
            row_sequences=torch.arange(batch, dtype=torch.int32),
            block_tables=torch.arange(batch * blocks, dtype=torch.int32).view(batch, blocks),
            logit_rows=torch.arange(batch),
        ),
    )


def measure(
    forms: Mapping[str, HeadArithmetic], runner: Runner, *, rounds: int, cases: Sequence[Case] = CASES
) -> dict[tuple[str, Case], Cost]:
    """Each call comes after a step: caches are as steps leave them."""
    most = max(case.batch for case in cases)
    runner.allocate_kv(most * (CONTEXT // BLOCK_SIZE + 1))
    steps = {case.batch: step_of(runner, case.batch) for case in cases}
    states = torch.randn(most, runner.config.hidden_size)
    times: dict[tuple[str, Case], list[tuple[float, float]]] = {(name, case): [] for name in forms for case in cases}
    for _ in range(rounds):
        for (name, case), found in times.items():
            contexts = contexts_of(case, states)
            step = _seconds(steps[case.batch])
            found.append((_seconds(partial(forms[name].draft, contexts, confidence_temperature=1.0)), step))
    return {
        key: Cost(
            seconds=statistics.median(call for call, _ in found),
            step_seconds=statistics.median(step for _, step in found),
            of_step=statistics.median(call / step for call, step in found),
        )
        for key, found in times.items()
    }


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@torch.inference_mode()
def main(
    model: Annotated[Path, typer.Option(help="The target.")],
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 40,
) -> None:
    """Time calls and steps in turn; medians."""
    torch.set_num_threads(1)
    runner = load_model(model, max_model_len=1024, num_threads=threads).runner
    head = random_head(runner)
    ids = torch.arange(DRAFT_VOCABULARY)
    serving = serving_head(head, ids, runner, revision="timed").arithmetic
    forms: dict[str, HeadArithmetic] = {type(serving).__name__: serving}
    forms["HeadInTorch"] = HeadInTorch(head, ids, embed=runner.embed, vocab_size=runner.config.vocab_size)
    for (name, case), cost in measure(forms, runner, rounds=rounds).items():
        print(
            f"{name:12} B={case.batch} temperature {case.temperature} {case.num_tokens} tokens: "
            f"{1e3 * cost.seconds:.2f} ms, {cost.of_step:.1%} of a step of {1e3 * cost.step_seconds:.1f} ms"
        )


if __name__ == "__main__":
    typer.run(main)
