"""Tokens per second, plain and speculative, with a stand-in drafter whose acceptance is given.

The drafter knows the true continuation (of a plain run before) and proposes each token of it with a given probability,
else another one. So speed at an acceptance is measured without training anything, and since a wrong draft must not
change the text, every speculative run is also a test: its tokens have to be those of the plain run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.gpu.records import Decoding
from bench.gpu.scale import Scale
from bench.gpu.step_rows import blocks_per_sequence
from bowsprit_engine.core.runner import Runner, StepBatch
from bowsprit_engine.kernels import verify

Propose = Callable[[int, int, int], list[int]]  # sequence, tokens emitted so far, most drafts: drafts
SEED = 12345


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`answers`: tokens of each sequence. `num_steps`: after the prompts; `seconds`: of those steps."""

    answers: tuple[tuple[int, ...], ...]
    num_steps: int
    num_sequence_steps: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self._num_decoded / self.seconds

    @property
    def acceptance_length(self) -> float:
        """E: tokens per sequence and step."""
        return self._num_decoded / self.num_sequence_steps

    @property
    def _num_decoded(self) -> int:
        return sum(len(answer) - 1 for answer in self.answers)  # the prompt's own step gave the first


def nothing(sequence: int, emitted: int, most: int) -> list[int]:
    """The drafter of plain decoding."""
    return []


def stand_in(answers: Sequence[Sequence[int]], *, acceptance: float, vocab_size: int) -> Propose:
    """Proposes `answers`, each token right with probability `acceptance`."""
    chance = random.Random(0)

    def propose(sequence: int, emitted: int, most: int) -> list[int]:
        true = answers[sequence][emitted : emitted + most]
        return [token if chance.random() < acceptance else (token + 1) % vocab_size for token in true]

    return propose


def compared(runner: Runner, scale: Scale, device: torch.device, *, batch: int) -> Iterator[Decoding]:
    """Plain and speculative runs over the same prompts: greedy at every acceptance, sampled at the highest."""
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(0, scale.config.vocab_size, (batch, scale.prompt_tokens), generator=generator).tolist()
    for temperature in (0.0, 0.8):

        def run(most: int, propose: Propose, temperature: float = temperature) -> Decoded:
            return decode(
                runner,
                prompts,
                num_tokens=scale.answer_tokens,
                num_draft_tokens=most,
                propose=propose,
                temperature=temperature,
                device=device,
            )

        plain = run(0, nothing)
        yield _record(plain, plain, batch=batch, temperature=temperature)
        for acceptance in scale.acceptance if temperature == 0.0 else scale.acceptance[-1:]:
            for most in scale.draft_tokens:
                drafter = stand_in(plain.answers, acceptance=acceptance, vocab_size=scale.config.vocab_size)
                yield _record(
                    run(most, drafter),
                    plain,
                    batch=batch,
                    temperature=temperature,
                    draft_tokens=most,
                    acceptance=acceptance,
                )


def _record(
    decoded: Decoded,
    plain: Decoded,
    *,
    batch: int,
    temperature: float,
    draft_tokens: int = 0,
    acceptance: float | None = None,
) -> Decoding:
    return Decoding(
        batch=batch,
        temperature=temperature,
        acceptance_length=decoded.acceptance_length,
        tokens_per_second=decoded.tokens_per_second,
        of_plain=decoded.tokens_per_second / plain.tokens_per_second,
        is_equal=decoded.answers == plain.answers,
        draft_tokens=draft_tokens,
        acceptance=acceptance,
    )


def decode(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    num_draft_tokens: int,
    propose: Propose,
    temperature: float,
    device: torch.device,
) -> Decoded:
    """Answers of `num_tokens` each, all sequences together; a finished one leaves the batch. KV must be allocated."""
    tokens = [list(prompt) for prompt in prompts]
    blocks = blocks_per_sequence(max(len(prompt) for prompt in prompts) + num_tokens)
    tables = [list(range(index * blocks, (index + 1) * blocks)) for index in range(len(prompts))]

    def run(wanted: Sequence[tuple[int, list[int], int]]) -> list[tuple[int, list[int]]]:
        return _step(runner, wanted, tables, temperature=temperature, device=device)

    for index, prompt in enumerate(prompts):
        [(_, drawn)] = run([(index, list(prompt), 0)])
        tokens[index].append(drawn[-1])
    num_steps = num_sequence_steps = 0
    begin = time.perf_counter()
    while True:
        wanted = []
        for index, own in enumerate(tokens):
            emitted = len(own) - len(prompts[index])
            if emitted < num_tokens:
                draft = propose(index, emitted, min(num_draft_tokens, num_tokens - emitted - 1))
                wanted.append((index, [own[-1], *draft], len(own) - 1))
        if not wanted:
            break
        for (index, rows, _), (accepted, drawn) in zip(wanted, run(wanted), strict=True):
            assert accepted < len(rows)
            tokens[index].extend(drawn[: accepted + 1])
        num_steps += 1
        num_sequence_steps += len(wanted)
    seconds = time.perf_counter() - begin  # the last step's tokens were read: the device is done
    answers = tuple(tuple(own[len(prompt) :]) for own, prompt in zip(tokens, prompts, strict=True))
    return Decoded(answers=answers, num_steps=num_steps, num_sequence_steps=num_sequence_steps, seconds=seconds)


def _step(
    runner: Runner,
    wanted: Sequence[tuple[int, list[int], int]],  # sequence, its rows' tokens, position of the first
    tables: Sequence[Sequence[int]],
    *,
    temperature: float,
    device: torch.device,
) -> list[tuple[int, list[int]]]:  # accepted drafts and drawn tokens of each
    row_starts = [0]
    for _, rows, _ in wanted:
        row_starts.append(row_starts[-1] + len(rows))
    flat = [token for _, rows, _ in wanted for token in rows]
    batch = StepBatch(
        token_ids=torch.tensor(flat, device=device),
        positions=torch.tensor(
            [first + i for _, rows, first in wanted for i in range(len(rows))], dtype=torch.int32, device=device
        ),
        row_sequences=torch.tensor(
            [index for index, (_, rows, _) in enumerate(wanted) for _ in rows], dtype=torch.int32, device=device
        ),
        block_tables=torch.tensor([tables[sequence] for sequence, _, _ in wanted], dtype=torch.int32, device=device),
        logit_rows=torch.arange(len(flat), device=device),
    )
    logits = runner.forward(batch).logits
    drawn, accepted = verify.verify(
        logits,
        row_starts=torch.tensor(row_starts, dtype=torch.int32, device=device),
        drafts=torch.tensor([*flat[1:], 0], device=device),
        temperature=torch.full((len(wanted),), temperature, device=device),
        seeds=torch.tensor([SEED + sequence for sequence, _, _ in wanted], device=device),
        positions=torch.tensor([first + 1 for _, _, first in wanted], dtype=torch.int32, device=device),
    )
    tokens, counts = drawn.tolist(), accepted.tolist()
    return [(count, tokens[start:end]) for count, start, end in zip(counts, row_starts, row_starts[1:], strict=False)]
