"""Acceptance of the product's own head against tokens of traffic: its loop, its objective, its vocabulary rule.

    PYTHONPATH=engine python -m bench.head_traffic --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.head_curve states --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.head_curve train --model MODEL --folder FOLDER --tokens 240000 --epochs 2
    PYTHONPATH=engine python -m bench.head_designs compare --folder FOLDER --costs COSTS.json

Decides how much of the traffic a run learns from, how often and how wide the head is. Only the last layer's states are
kept, of rows that emitted, in bfloat16: a million tokens are 1.2 GB for 576 numbers a row. Results lie beside those of
head_designs.py, which prints them. The last weights are kept, not the best by validation: what is held out judges.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import head_designs
from bench.head_recurrent import RecurrentDesign
from bench.head_states import LONGEST, parts
from bench.head_traffic import recorded
from bench.recorded_answers import Answer
from bowsprit_engine.models import load_model
from bowsprit_engine.training import loop
from bowsprit_engine.training.data import RequestFeatures, TokenSequence, draft_vocabulary
from bowsprit_engine.training.features import StateReader
from bowsprit_engine.training.head import RecurrentHead, TargetRows

STATES = "last_states"

app = typer.Typer(add_completion=False)


@app.command()
def states(model: head_designs.Model, folder: head_designs.Folder, threads: head_designs.Threads = 1) -> None:
    """Compute what is missing, a part at a time."""
    answers = recorded(folder).learned
    torch.set_num_threads(threads)
    reader: StateReader | None = None
    for number, part in sorted(parts(answers).items()):
        path = part_path(folder, number)
        if path.exists() and set(load_file(path)) == {f"{answer.index}" for answer in part}:
            continue
        reader = reader or StateReader(
            load_model(model, max_model_len=LONGEST, num_threads=threads).runner, longest=LONGEST
        )
        asked = [TokenSequence(prompt_token_ids=answer.prompt, response_token_ids=answer.tokens) for answer in part]
        found = reader.read(asked, is_late=lambda: False)
        write(path, {answer.index: each.hidden for answer, each in zip(part, found, strict=True)})
        print(f"{path.name}: {len(part)} answers", flush=True)


@app.command()
def train(
    model: head_designs.Model,
    folder: head_designs.Folder,
    tokens: Annotated[int, typer.Option(help="Emitted tokens of the first answers to learn from.")],
    epochs: Annotated[int, typer.Option(min=1, help="How often each is seen.")] = 1,
    rows: Annotated[int, typer.Option(help="Emitted tokens of one optimizer step.")] = 256,
    vocabulary: Annotated[int, typer.Option(help="Draft tokens.")] = 2048,
    width: Annotated[int, typer.Option(help="W.")] = 512,
    threads: head_designs.Threads = 1,
) -> None:
    """Train one head and keep its figures and its drafts on the held-out answers."""
    torch.set_num_threads(threads)
    traffic = recorded(folder)
    requests = list(learned(folder, traffic.learned, max_tokens=tokens))
    ids = draft_vocabulary(requests, size=vocabulary)
    target, embedding, eps = head_designs.borrowed(model, ids)
    torch.manual_seed(0)
    design = RecurrentDesign(target, embedding, intermediate_size=width, eps=eps)
    settings = loop.LoopSettings(
        max_epochs=epochs, rows_per_batch=rows, patience=epochs + 1, products=torch.bfloat16, validations_per_epoch=1
    )
    begin = time.process_time()
    outcome = trained(design.head, target, requests, embedding, settings)
    seconds = time.process_time() - begin
    num_tokens = sum(len(request.token_ids) for request in requests)
    last = outcome.checkpoints[-1]
    spent = {"tokens": num_tokens * epochs, "steps": last.step, "last_loss": last.loss, "cpu_seconds": seconds}
    head_designs.keep(
        folder / "results" / f"recurrent-{num_tokens // 1000}k-{epochs}x-{rows}-V{vocabulary}-W{width}",
        design,
        run={"design": "recurrent" if width == 512 else "recurrent-wide", "spent": spent},
        distinct_tokens=num_tokens,
        judged=head_designs.stored(folder / "states" / "judged"),
        traffic=traffic,
        draft_token_ids=ids,
    )


def trained(
    head: RecurrentHead,
    target: TargetRows,
    requests: Sequence[RequestFeatures],
    embedding: Tensor,  # [vocabulary, D]
    settings: loop.LoopSettings,
) -> loop.Outcome:
    """In place; the weights after the last step."""
    later_is_better = itertools.count()
    return loop.train(
        head,
        target=target,
        requests=requests,
        embed=lambda token_ids: embedding[token_ids],
        judge=lambda _: float(next(later_is_better)),
        settings=settings,
        clock=lambda: 0.0,
        on_checkpoint=lambda checkpoint: print(f"step {checkpoint.step}: loss {checkpoint.loss:.3f}", flush=True),
    )


def learned(folder: Path, answers: Sequence[Answer], *, max_tokens: int) -> Iterator[RequestFeatures]:
    """The first answers whose states are there, up to so many emitted tokens."""
    total = 0
    for number, part in sorted(parts(answers).items()):
        path = part_path(folder, number)
        found = load_file(path) if path.exists() else {}
        for answer in part:
            hidden = found.get(f"{answer.index}")
            if hidden is None:
                continue
            total += len(answer.tokens)
            if total > max_tokens:
                return
            yield RequestFeatures(
                prompt_token_ids=answer.prompt,
                token_ids=torch.tensor(answer.tokens),
                hidden=hidden,
                arrival=answer.index,
            )


def part_path(folder: Path, number: int) -> Path:
    return folder / STATES / f"part-{number:03}.safetensors"


def write(path: Path, hidden: dict[int, Tensor]) -> None:
    """By the answers' indices; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    save_file({f"{index}": rows.to(torch.bfloat16).contiguous() for index, rows in hidden.items()}, staged)
    staged.rename(path)


if __name__ == "__main__":
    app()
