"""A target whose text has a known distribution, served by the whole engine, and that distribution, exactly.

The toy's logits depend on the last token alone. `text_distribution` enumerates every text of up to four tokens with its
probability under the sampling parameters, in float64 and from their definitions, by code of its own: nothing of the
engine's draw is used.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import torch

from bowsprit_engine.core.request import SamplingParams
from bowsprit_engine.core.runner import ModelOutput, StepBatch
from bowsprit_engine.core.sampling import Draw
from bowsprit_engine.speculation.drafters.base import DraftContext
from exactness.served import Asked, Run, engine_of
from fakes import FakeDrafter, FakeRunner

VOCAB, EOS, LENGTH = 5, 4, 4
PROMPT = (0, 1)
LOGITS = (  # of the token after 0, 1, 2, 3; none follows the end
    (0.6, 1.4, -0.3, 0.2, -1.0),
    (1.1, -0.6, 0.9, 0.3, -0.7),
    (-0.2, 0.8, 0.1, 1.3, -0.9),
    (0.5, 0.0, 1.2, -0.8, -0.4),
    (0.0, 0.0, 0.0, 0.0, 0.0),
)

Text = tuple[int, ...]


class ToyRunner(FakeRunner):
    """LOGITS of each row's token."""

    def __init__(self) -> None:
        super().__init__(max_model_len=96)
        self.config = dataclasses.replace(self.config, vocab_size=VOCAB, eos_token_ids=(EOS,))
        self._logits = torch.tensor(LOGITS)

    def forward(self, batch: StepBatch) -> ModelOutput:
        logits = self._logits[batch.token_ids[batch.logit_rows]]
        return ModelOutput(logits=logits, hidden=torch.zeros(batch.token_ids.numel(), 1))


def gambler() -> FakeDrafter:
    """Proposes any tokens, the end and impossible ones too: one in five is right by luck."""
    dice = random.Random(11)

    def draft(context: DraftContext) -> Sequence[int]:
        return [dice.randrange(VOCAB) for _ in range(context.max_draft_tokens)]

    return FakeDrafter(name="gambler", draft=draft)


def texts(
    sampling: Mapping[str, object], *, count: int, draft_tokens: int, first_seed: int = 0, draw: Draw | None = None
) -> list[Text]:
    """What the engine answers to `count` requests, alike but for their seeds, 64 at a time."""
    engine = engine_of(
        ToyRunner(),
        drafters=[gambler()] if draft_tokens else [],
        mode=draft_tokens or "off",
        batch=64,
        kv_blocks=128,
        max_waiting=count,
        draw=draw,
    )
    requests = [
        Asked(
            name=str(seed),
            prompt=PROMPT,
            sampling=SamplingParams(**{"max_tokens": LENGTH, "temperature": 1.0, **sampling, "seed": seed}),
        )
        for seed in range(count)
    ]
    answers = Run(engine).serve(requests).answers
    return [tuple(answers[asked.name].token_ids) for asked in requests]


def text_distribution(sampling: Mapping[str, object]) -> dict[Text, float]:
    """Every text that can be emitted, with its probability; they sum to 1."""
    params = SamplingParams(**{"temperature": 1.0, **sampling, "seed": 0})
    return {text: p for text, p in _continuations((), 1.0, params) if p > 0}


def _continuations(emitted: Text, probability: float, params: SamplingParams) -> Iterator[tuple[Text, float]]:
    if len(emitted) == LENGTH or (emitted and (emitted[-1] == EOS or emitted[-1] in params.stop_token_ids)):
        yield emitted, probability
        return
    for token, p in enumerate(next_distribution(emitted, params)):
        if p > 0:
            yield from _continuations((*emitted, token), probability * p, params)


def next_distribution(emitted: Text, params: SamplingParams) -> list[float]:
    """Probabilities of the next token: penalties, bias, mask, temperature, top_k, top_p, min_p, in this order."""
    logits = [float(value) for value in LOGITS[(*PROMPT, *emitted)[-1]]]
    for token in range(VOCAB):
        count = emitted.count(token)
        if token in PROMPT or count:
            factor = params.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        logits[token] -= params.frequency_penalty * count + params.presence_penalty * (count > 0)
        logits[token] += params.logit_bias.get(token, 0.0)
        if len(emitted) < params.min_tokens and (token == EOS or token in params.stop_token_ids):
            logits[token] = -math.inf
    weights = _softmax([value / params.temperature for value in logits])
    if params.top_k:
        smallest = sorted(weights, reverse=True)[min(params.top_k, VOCAB) - 1]
        weights = _normalised([w if w >= smallest else 0.0 for w in weights])
    if params.top_p < 1.0:
        mass_above = [sum(v for v in weights if v > w) for w in weights]
        weights = _normalised(
            [w if above < params.top_p else 0.0 for w, above in zip(weights, mass_above, strict=True)]
        )
    return _normalised([w if w >= params.min_p * max(weights) else 0.0 for w in weights])


def _softmax(values: Sequence[float]) -> list[float]:
    return _normalised([math.exp(value) for value in values])


def _normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
