"""Our runners against transformers on the same weights: the greedy text of real prompts, and the logits under it.

Decides what "equal" means: our runner writes an answer greedily, transformers reads prompt and answer in one float32
pass, and the text is equal where its own first choice is our token at every position. (By induction that is the text
that it would have written; tokens are compared only up to the first that differs.) Knows neither scheduler nor
speculation: a runner is driven step by step.

    python -m bench.against_transformers --prompts 200
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench.exported_weights import export, packaged_model
from bench.installation import cache_folder
from bench.prompts import human_eval_programs
from bench.streams import mixed_stream
from bowsprit_engine.core.runner import BLOCK_SIZE, Runner, StepBatch
from bowsprit_engine.models import Backend, DType, load_model

Prompt = tuple[int, ...]

BATCH = 8
MOST_PROMPT_TOKENS = 192
# Largest distance of a row of logits from float32's, relative to the row's norm.
RELATIVE_LOGIT_BOUND = 1e-4  # in float32
TIMES_TORCH = 1.0  # in bfloat16: of what torch's own operators are off by on the same prompts
LEAST_EQUAL = 0.95  # in float32; bfloat16 rounds otherwise, which is reported and not judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """`largest_logit_error`: of a row, relative to its norm, over every compared row."""

    runner: str
    num_prompts: int
    num_tokens: int  # compared: up to each answer's first difference
    num_equal_texts: int
    largest_logit_error: float
    largest_margin_lost: float  # at first differences: how far transformers' choice was ahead of ours, in logits

    @property
    def equal_share(self) -> float:
        return self.num_equal_texts / self.num_prompts


def compare(
    runner: Runner, reference: Any, prompts: Sequence[Prompt], *, num_tokens: int, name: str, say: Callable[[str], None]
) -> Agreement:
    """`reference`: a transformers model of the same weights in float32. Raises ValueError for no prompts."""
    if not prompts:
        raise ValueError("there are no prompts to compare")
    blocks_each = -(-(max(len(prompt) for prompt in prompts) + num_tokens) // BLOCK_SIZE)
    runner.allocate_kv(BATCH * blocks_each)
    num_equal = num_compared = 0
    worst_error = worst_margin = 0.0
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        for prompt, (answer, logits) in zip(
            batch, greedy_answers(runner, batch, num_tokens=num_tokens, blocks_each=blocks_each), strict=True
        ):
            theirs = _reference_logits(reference, prompt, answer)
            choices = theirs.argmax(dim=-1).tolist()
            equal = next((i for i, token in enumerate(answer) if token != choices[i]), None)
            compared = len(answer) if equal is None else equal + 1
            errors = (logits[:compared] - theirs[:compared]).norm(dim=-1) / theirs[:compared].norm(dim=-1)
            worst_error = max(worst_error, float(errors.max()))
            num_compared += compared
            if equal is None:
                num_equal += 1
            else:
                worst_margin = max(worst_margin, float(theirs[equal].max() - theirs[equal, answer[equal]]))
        say(f"{name}: {min(first + BATCH, len(prompts))} of {len(prompts)} prompts, {num_equal} texts equal")
    return Agreement(
        runner=name,
        num_prompts=len(prompts),
        num_tokens=num_compared,
        num_equal_texts=num_equal,
        largest_logit_error=worst_error,
        largest_margin_lost=worst_margin,
    )


def greedy_answers(
    runner: Runner, prompts: Sequence[Prompt], *, num_tokens: int, blocks_each: int
) -> list[tuple[list[int], Tensor]]:
    """Each prompt's answer (its end token included) and the logits that its tokens were chosen from, [tokens, vocab].

    All prompts go through the same steps, each in `blocks_each` blocks of its own.
    """
    tables = torch.arange(len(prompts) * blocks_each, dtype=torch.int32).reshape(len(prompts), blocks_each)
    new: list[Sequence[int]] = list(prompts)
    lengths = [0] * len(prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    rows: list[list[Tensor]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    while running:
        step = _step([(new[index], lengths[index], index) for index in running], tables)
        logits = runner.forward(step).logits.float().cpu()
        for row, index in zip(logits, running, strict=True):
            lengths[index] += len(new[index])
            answers[index].append(int(row.argmax()))
            rows[index].append(row)
            new[index] = answers[index][-1:]
        ends = runner.config.eos_token_ids
        running = [i for i in running if len(answers[i]) < num_tokens and answers[i][-1] not in ends]
    return [(answer, torch.stack(own)) for answer, own in zip(answers, rows, strict=True)]


def real_prompts(tokenizer: Any, count: int, *, seed: int = 1) -> list[Prompt]:
    """Chat questions with their functions, and beginnings of programs, in turn; all distinct."""
    questions = _questions(tokenizer, count, seed=seed)
    programs = _beginnings(tokenizer)
    found: list[Prompt] = []
    while len(found) < count:
        found += [prompt for prompt in (next(questions, None), next(programs, None)) if prompt is not None]
    return found[:count]


def _questions(tokenizer: Any, count: int, *, seed: int) -> Iterator[Prompt]:
    for messages in mixed_stream(count, seed):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        if len(ids) <= MOST_PROMPT_TOKENS:
            yield tuple(ids)


def _beginnings(tokenizer: Any) -> Iterator[Prompt]:
    for program in human_eval_programs():
        ids = tokenizer(program).input_ids
        yield tuple(ids[: min(len(ids) // 2, MOST_PROMPT_TOKENS)])


def _step(sequences: Sequence[tuple[Sequence[int], int, int]], tables: Tensor) -> StepBatch:
    """Of (new tokens, position of the first, index of the block table)."""
    counts = [len(tokens) for tokens, _, _ in sequences]
    return StepBatch(
        token_ids=torch.tensor([token for tokens, _, _ in sequences for token in tokens], dtype=torch.int64),
        positions=torch.cat([torch.arange(begin, begin + len(t), dtype=torch.int32) for t, begin, _ in sequences]),
        row_sequences=torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), torch.tensor(counts)),
        block_tables=tables[[index for _, _, index in sequences]],
        logit_rows=torch.tensor(counts).cumsum(0) - 1,
    )


@torch.inference_mode()
def _reference_logits(reference: Any, prompt: Prompt, answer: Sequence[int]) -> Tensor:  # [answer tokens, vocab]
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    logits: Tensor = reference(ids, logits_to_keep=len(answer)).logits[0].float()
    return logits


EXACT, ROUNDED, NATIVE = "torch, float32", "torch, bfloat16", "native, bfloat16"
RUNNERS: dict[str, tuple[Backend, DType]] = {
    EXACT: ("torch", "float32"),
    ROUNDED: ("torch", "bfloat16"),
    NATIVE: ("native", "bfloat16"),
}


def judged(agreements: Sequence[Agreement]) -> list[str]:
    """What of these isn't within its bound, in words. bfloat16 has one only beside torch's own."""
    by_runner = {agreement.runner: agreement for agreement in agreements}
    limits = {EXACT: RELATIVE_LOGIT_BOUND}
    if ROUNDED in by_runner:
        limits[NATIVE] = TIMES_TORCH * by_runner[ROUNDED].largest_logit_error
    faults = []
    for name, limit in limits.items():
        agreement = by_runner.get(name)
        if agreement is None:
            continue
        if name == EXACT and agreement.equal_share < LEAST_EQUAL:
            faults.append(f"{name}: {agreement.equal_share:.1%} of texts equal, least {LEAST_EQUAL:.0%}")
        if agreement.largest_logit_error > limit:
            faults.append(
                f"{name}: logits off by {agreement.largest_logit_error:.2e} of their norm, at most {limit:.2e}"
            )
    return faults


def measure(*, prompts: int, tokens: int, say: Callable[[str], None]) -> list[Agreement]:
    """All runners on the packaged model. Weights are the file's, rounded to bfloat16 once, for both sides."""
    from transformers import AutoModelForCausalLM

    weights = export(packaged_model(), cache_folder())
    reference = AutoModelForCausalLM.from_pretrained(weights.hf_folder, dtype=torch.float32).eval()
    found = []
    for name, (backend, dtype) in RUNNERS.items():
        model = load_model(weights.hf_folder, backend=backend, dtype=dtype, device="cpu")
        chosen = real_prompts(model.tokenizer, prompts)
        found.append(compare(model.runner, reference, chosen, num_tokens=tokens, name=name, say=say))
    return found


def main(
    prompts: Annotated[int, typer.Option(help="Real prompts, chat and programs in turn.")] = 200,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 48,
    out: Annotated[Path | None, typer.Option(help="File for the figures as JSON.")] = None,
) -> None:
    """Exits 1 when a bound is broken."""
    agreements = measure(prompts=prompts, tokens=tokens, say=typer.echo)
    for agreement in agreements:
        typer.echo(
            f"{agreement.runner}: {agreement.num_equal_texts} of {agreement.num_prompts} texts equal "
            f"({agreement.equal_share:.1%}) over {agreement.num_tokens} tokens; logits within "
            f"{agreement.largest_logit_error:.2e} of their norm; at a first difference theirs was at most "
            f"{agreement.largest_margin_lost:.2e} ahead"
        )
    if out is not None:
        out.write_text(json.dumps([asdict(agreement) for agreement in agreements], indent=1))
    faults = judged(agreements)
    for fault in faults:
        typer.echo(f"NOT within its bound: {fault}", err=True)
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
