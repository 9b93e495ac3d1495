"""Designs of the trained head compared on one traffic: today's recurrent one, an EAGLE-3-like, a block-parallel one.

    PYTHONPATH=engine python -m bench.head_traffic --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.head_designs states --model MODEL --folder FOLDER
    PYTHONPATH=engine python -m bench.head_designs train --model MODEL --folder FOLDER --design eagle --seen 500000
    PYTHONPATH=engine python -m bench.head_designs compare --folder FOLDER --costs COSTS.json

Decides which designs there are and what a run keeps: a JSON file of figures and a file of drafts on the held-out
answers, from which `compare` makes the table (head_table.py). Each step is its own process and can be run again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench import head_table
from bench.head_block import BlockHead
from bench.head_eagle import EagleHead
from bench.head_judging import acceptance_length, draft_all, matched_per_position
from bench.head_recurrent import RecurrentDesign
from bench.head_states import Document, LayerReader, load, read_or_compute
from bench.head_traffic import Traffic, recorded
from bench.head_training import Budget, train
from bowsprit_engine.models import open_model
from bowsprit_engine.models.checkpoint import EMBEDDING, FINAL_NORM, LM_HEAD, take
from bowsprit_engine.training.head import TargetRows

DRAFT_VOCABULARY = 2048
MOST_DRAFTED = 8
STATE_WEIGHTS = {"recurrent": 0.1, "recurrent-wide": 0.1, "recurrent-fused": 0.1}  # as training/loop.py
DESIGNS: dict[str, Callable[..., Any]] = {
    "recurrent": lambda *target, eps, block: RecurrentDesign(*target, intermediate_size=512, eps=eps),
    "recurrent-wide": lambda *target, eps, block: RecurrentDesign(*target, intermediate_size=1152, eps=eps),
    "recurrent-fused": lambda *target, eps, block: RecurrentDesign(
        *target, intermediate_size=512, eps=eps, is_fused=True
    ),
    "eagle": lambda *target, eps, block: EagleHead(*target, intermediate_size=512, eps=eps),
    "eagle-window": lambda *target, eps, block: EagleHead(*target, intermediate_size=512, eps=eps, window=32),
    "block": lambda *target, eps, block: BlockHead(*target, intermediate_size=256, eps=eps, block=block),
}

app = typer.Typer(add_completion=False)
Folder = Annotated[Path, typer.Option(help="Of the recording, the states and the results.")]
Model = Annotated[Path, typer.Option(help="The recorded model's .gguf file or folder.")]
Threads = Annotated[int, typer.Option(min=1)]


@app.command()
def states(
    model: Model,
    folder: Folder,
    threads: Threads = 1,
    leave_last: Annotated[int, typer.Option(help="Parts left out: 2 while answers are being recorded.")] = 0,
) -> None:
    """Compute the target's states of what is recorded."""
    torch.set_num_threads(threads)
    traffic = recorded(folder)
    judged = [answer for answers in traffic.judged.values() for answer in answers]

    def reader() -> LayerReader:
        return LayerReader(model, num_threads=threads)

    for name, answers in (("judged", judged), ("learned", traffic.learned)):
        last = leave_last if name == "learned" else 0
        found = read_or_compute(folder / "states" / name, answers, reader, leave_last=last)
        print(f"{name}: {len(found)} answers, {sum(document.num_answer for document in found)} emitted tokens")


@app.command("train")
def train_one(
    model: Model,
    folder: Folder,
    design: Annotated[str, typer.Option(help=", ".join(DESIGNS))],
    seen: Annotated[int, typer.Option(help="Emitted tokens of the budget, repetitions included.")],
    distinct: Annotated[int | None, typer.Option(help="Emitted tokens of the first answers; all, if absent.")] = None,
    positions: Annotated[int, typer.Option(help="Draft positions trained.")] = 4,
    rows_per_batch: Annotated[int, typer.Option(help="Emitted tokens of one optimizer step.")] = 1024,
    threads: Threads = 2,
) -> None:
    """Train one design and keep its figures and its drafts."""
    if design not in DESIGNS:
        raise typer.BadParameter(f"{design!r} is none of: {', '.join(DESIGNS)}")
    torch.set_num_threads(threads)
    traffic = recorded(folder)
    learned = stored(folder / "states" / "learned")
    counts = Counter(token for answer in traffic.learned for token in answer.tokens)
    ids = torch.tensor(sorted(token for token, _ in counts.most_common(DRAFT_VOCABULARY)))
    target, embedding, eps = borrowed(model, ids)
    documents = limited(learned, distinct)
    torch.manual_seed(0)
    made = DESIGNS[design](target, embedding, eps=eps, block=positions)
    budget = Budget(
        tokens=seen, positions=positions, rows_per_batch=rows_per_batch, state_weight=STATE_WEIGHTS.get(design, 0.0)
    )
    total = 0.0

    def told(tokens: int, steps: int, loss: float) -> None:
        nonlocal total
        total += loss
        if steps % 50 == 0:
            print(f"{design}: {tokens} tokens, loss {total / 50:.4f}", flush=True)
            total = 0.0

    spent = train(made, documents, target, eps, budget, on_step=told)
    name = f"{design}-{sum(d.num_answer for d in documents) // 1000}k-{seen // 1000}k-{rows_per_batch}"
    run = {"design": design, "spent": asdict(spent)}
    keep(
        folder / "results" / name,
        made,
        run=run,
        distinct_tokens=sum(document.num_answer for document in documents),
        judged=stored(folder / "states" / "judged"),
        traffic=traffic,
        draft_token_ids=ids,
    )


@app.command()
def compare(
    folder: Folder,
    costs: Annotated[Path, typer.Option(help="Of bench.head_cost: seconds of drafts and of steps.")],
) -> None:
    """Print what was kept of all runs, alone and in the pool."""
    head_table.compare(folder / "results", recorded(folder), costs=costs)


def stored(folder: Path) -> list[Document]:
    """All parts, in order of arrival."""
    return [document for path in sorted(folder.glob("part-*.safetensors")) for document in load(path)]


def limited(documents: Sequence[Document], tokens: int | None) -> list[Document]:
    """The first ones whose answers have at most so many tokens together."""
    kept, total = [], 0
    for document in documents:
        total += document.num_answer
        if tokens is not None and total > tokens:
            break
        kept.append(document)
    return kept


def borrowed(model: Path, ids: Tensor) -> tuple[TargetRows, Tensor, float]:
    """What every design takes from the target: its rows of the draft vocabulary, its embedding, its norm's eps."""
    checkpoint = open_model(model).checkpoint

    def stored_rows(name: str) -> Tensor:  # as served: rounded to bfloat16
        return take(checkpoint, name).to(torch.bfloat16).float()

    embedding = stored_rows(EMBEDDING)
    lm_head = embedding if checkpoint.config.tie_word_embeddings else stored_rows(LM_HEAD)
    target = TargetRows(draft_token_ids=ids, lm_head=lm_head[ids], final_norm=take(checkpoint, FINAL_NORM).float())
    return target, embedding, checkpoint.config.rms_norm_eps


def keep(
    path: Path,
    design: Any,
    *,
    run: dict[str, Any],
    distinct_tokens: int,
    judged: Sequence[Document],
    traffic: Traffic,
    draft_token_ids: Tensor,  # [V]
) -> None:
    """Judge and write: `path`.json for people, `path`.drafts for the replay, `path`.weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    by_index = {document.index: document for document in judged}
    figures: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in design.parameters()),
        **run,
        "distinct_tokens": distinct_tokens,
        "streams": {},
    }
    drafts: dict[str, Any] = {}
    for (stream, temperature), answers in traffic.judged.items():
        asked = [by_index[answer.index] for answer in answers]
        drafted = draft_all(design, asked, draft_token_ids, num_positions=MOST_DRAFTED, temperature=temperature)
        known = torch.cat([torch.isin(d.tokens[d.num_prompt + 1 :], draft_token_ids) for d in asked])
        key = f"{stream} {temperature:g}"
        drafts[key] = drafted
        figures["streams"][key] = {
            "answers": len(asked),
            "tokens": sum(document.num_answer - 1 for document in asked),
            "in_vocabulary": known.float().mean().item(),
            "per_position": matched_per_position(drafted, drafted[0].token_ids.shape[1]),
            "E": {num_draft: acceptance_length(drafted, num_draft) for num_draft in (2, 4, MOST_DRAFTED)},
        }
        print(path.name, key, json.dumps(figures["streams"][key]), flush=True)
    path.with_suffix(".json").write_text(json.dumps(figures, indent=1))
    torch.save(drafts, path.with_suffix(".drafts"))
    torch.save({"weights": design.state_dict(), "draft_token_ids": draft_token_ids}, path.with_suffix(".weights"))


if __name__ == "__main__":
    app()
