"""What the shared noise costs: how often a drafter's keyed draw is the target's, beside the best of all couplings.

A draft is kept iff it equals the target's own draw, so a stochastic drafter of distribution q draws with the target's
noise. Two such draws agree with probability

    sum_i 1 / sum_j max(p_j / p_i, q_j / q_i)          (between (1 - TV) / (1 + TV) and 1 - TV; Daliri et al.)

while maximal coupling, which rejection sampling reaches, gives 1 - TV(p, q). Decides pairs (p, q): random ones, and the
next-token distributions of SmolLM2 at positions of real prompts beside those of perturbed drafters. The formula is
computed for every pair, and the engine's own draw is run on it to see that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.exported_weights import packaged_model
from bench.prompts import human_eval_programs
from bench.streams import mixed_stream
from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.kernels import native
from bowsprit_engine.models import load_model

MAX_PROMPT = 256
TOKENS_KEPT = 2048  # the most likely ones of a real distribution; the rest holds too little to show
NUM_KEYS = 64  # draws per pair

Perturb = Callable[[Tensor, torch.Generator], Tensor]  # target logits / temperature -> drafter logits / temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Means over pairs: total variation, 1 - TV, the formula, what draws with the same noise gave, and their error."""

    num_pairs: int
    maximal: float
    coupled: float
    drawn: float
    standard_error: float
    lower_bound: float


def main(
    prompts: Annotated[int, typer.Option(help="Real prompts, 8 positions each.")] = 24,
    random_pairs: Annotated[int, typer.Option(help="Random pairs of each kind.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of the real distributions.")] = 0.8,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)  # small tensors: a second thread only waits
    generator = torch.Generator().manual_seed(0)
    rows: list[tuple[str, Price]] = []
    for name, spread, size in (("flat", 0.5, 64), ("as a model's", 2.5, 64), ("peaked", 6.0, 64), ("large", 2.5, 2048)):
        target = [spread * torch.randn(size, generator=generator) for _ in range(random_pairs)]
        near = [row + 0.5 * spread * torch.randn(size, generator=generator) for row in target]
        other = [spread * torch.randn(size, generator=generator) for _ in target]
        rows.append((f"random, {name} ({size} tokens), noisy copy", price(target, near)))
        rows.append((f"random, {name} ({size} tokens), unrelated", price(target, other)))
    real = list(real_logits(prompts))
    for name, perturb in perturbations(temperature).items():
        rows.append((f"SmolLM2 at {temperature}, {name}", price(*real_pairs(real, temperature, perturb, generator))))
    table = Table("distributions", "pairs", "1 - TV", "same noise", "of it", "drawn", "(1-TV)/(1+TV)")
    for name, found in rows:
        table.add_row(
            name,
            str(found.num_pairs),
            f"{found.maximal:.3f}",
            f"{found.coupled:.3f}",
            f"{found.coupled / found.maximal:.1%}",
            f"{found.drawn:.3f} ± {2 * found.standard_error:.3f}",
            f"{found.lower_bound:.3f}",
        )
    Console(width=130).print(table)


def perturbations(temperature: float) -> dict[str, Perturb]:
    """Drafters that err in one way each."""

    def noisy(sigma: float) -> Perturb:
        return lambda scaled, generator: scaled + sigma * torch.randn(scaled.shape, generator=generator)

    def top_only(count: int) -> Perturb:
        return lambda scaled, _: scaled.masked_fill(scaled < scaled.topk(count).values[-1], -torch.inf)

    return {
        "drafter at 0.4": lambda scaled, _: scaled * (temperature / 0.4),
        "drafter at 1.2": lambda scaled, _: scaled * (temperature / 1.2),
        "logits with noise of 0.5": noisy(0.5),
        "logits with noise of 1": noisy(1.0),
        "logits with noise of 2": noisy(2.0),
        "drafter's 64 likeliest tokens only": top_only(64),
        "drafter's 8 likeliest tokens only": top_only(8),
    }


def price(target: Sequence[Tensor], drafter: Sequence[Tensor]) -> Price:
    """`target`, `drafter`: logits, already divided by the temperature, pair by pair."""
    maximal, coupled, drawn, lower = [], [], [], []
    for number, (one, other) in enumerate(zip(target, drafter, strict=True)):
        p, q = torch.softmax(one.double(), dim=0), torch.softmax(other.double(), dim=0)
        distance = 0.5 * float((p - q).abs().sum())
        maximal.append(1 - distance)
        lower.append((1 - distance) / (1 + distance))
        coupled.append(agreement(p, q))
        drawn.append(drawn_agreement(one, other, seed=number))
    count = len(maximal)
    mean = [sum(values) / count for values in (maximal, coupled, drawn, lower)]
    error = math.sqrt(sum(c * (1 - c) for c in coupled) / NUM_KEYS) / count
    return Price(
        num_pairs=count, maximal=mean[0], coupled=mean[1], drawn=mean[2], lower_bound=mean[3], standard_error=error
    )


def agreement(
    p: Tensor,  # [vocab] float64
    q: Tensor,  # [vocab] float64
) -> float:
    """Probability that argmax(log p + g) = argmax(log q + g) for one Gumbel vector g."""
    ratio, order = torch.sort(p / q, descending=True)  # inf where q is 0, nan where both are
    p, q = p[order].where(~ratio.isnan(), 0.0), q[order].where(~ratio.isnan(), 0.0)
    # max(p_j / p_i, q_j / q_i) is the first iff p_j / q_j >= p_i / q_i: the tokens up to i in this order
    tail = q.sum() - q.cumsum(dim=0)
    wins = 1 / (p.cumsum(dim=0) / p + tail / q)
    return float(wins[(p > 0) & (q > 0)].sum())


def drawn_agreement(one: Tensor, other: Tensor, *, seed: int) -> float:
    """The share of keys at which the engine's draw gives both the same token."""
    keys = torch.arange(NUM_KEYS)
    off = (torch.zeros(NUM_KEYS), torch.ones(NUM_KEYS), torch.zeros(NUM_KEYS))
    seeds = torch.full((NUM_KEYS,), seed)
    tokens = [
        native.draw(row.float().expand(NUM_KEYS, -1), torch.ones(NUM_KEYS), *off, seeds, keys) for row in (one, other)
    ]
    return float((tokens[0] == tokens[1]).float().mean())


def real_pairs(
    logits: Sequence[Tensor], temperature: float, perturb: Perturb, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    target = [row.topk(TOKENS_KEPT).values / temperature for row in logits]
    return target, [perturb(row, generator) for row in target]


def real_logits(num_prompts: int) -> Iterator[Tensor]:
    """SmolLM2's logits at 8 positions of each of as many real prompts, questions and programs in turn."""
    model = load_model(packaged_model(), max_model_len=MAX_PROMPT, backend="native")
    model.runner.allocate_kv(MAX_PROMPT // BLOCK_SIZE)
    chats = [
        model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in mixed_stream(-(-num_prompts // 2), seed=4)
    ]
    texts = [text for pair in zip(chats, human_eval_programs(), strict=False) for text in pair]
    for text in texts[:num_prompts]:
        yield from _at_eight_positions(model.runner, model.tokenizer.encode(text, add_special_tokens=False))


def _at_eight_positions(runner: Runner, token_ids: Sequence[int]) -> Tensor:
    ids = list(token_ids[:MAX_PROMPT])
    wanted = torch.linspace(len(ids) // 4, len(ids) - 1, 8).long()
    batch = StepBatch(
        token_ids=torch.tensor(ids),
        positions=torch.arange(len(ids), dtype=torch.int32),
        row_sequences=torch.zeros(len(ids), dtype=torch.int32),
        block_tables=torch.arange(MAX_PROMPT // BLOCK_SIZE, dtype=torch.int32)[None],
        logit_rows=wanted,
    )
    return runner.forward(batch).logits.clone()


if __name__ == "__main__":
    typer.run(main)
