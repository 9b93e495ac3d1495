"""Real traffic through an unmodified `openai` client, and what each answer tells about its speculation.

Decides how requests are sent, timed and counted. Refuses to know what is in the prompts and what the cluster is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One chat request: its messages and how its answer is drawn."""

    messages: tuple[Message, ...]
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    logit_bias: Mapping[str, int] = field(default_factory=dict)  # by token id

    def at(self, *, temperature: float, seed: int) -> Prompt:
        """The same question, drawn otherwise."""
        return replace(self, temperature=temperature, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `was_accepted`: the server had begun to answer; `error`: why it never finished, None if it did.

    `steps`: forward passes that this sequence took part in. Times are seconds since the epoch, or of duration.
    """

    text: str
    finish_reason: str | None
    tokens: int
    started_at: float
    seconds: float
    is_speculative: bool
    drafted: int = 0
    accepted: int = 0
    acceptance_length: float | None = None
    was_accepted: bool = True
    error: str | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def client_of(url: str) -> openai.AsyncOpenAI:
    """No retries (a lost request must be seen) and a new connection per request (so that a Service spreads them)."""
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=120.0,
        default_headers={"Connection": "close"},
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


def speculation(*, is_on: bool, drafter: str | None = None) -> dict[str, Any]:
    """The request's own limits, as `extra_body` of the openai client."""
    named = {} if drafter is None else {"drafter": drafter}
    return {"speculation": {"mode": "auto" if is_on else "off", **named}}


def headers(*, tenant: str | None, is_captured: bool) -> dict[str, str]:
    """Who asks, and whether the request may be kept, as HTTP headers."""
    named = {} if tenant is None else {"x-bowsprit-tenant": tenant}
    return named if is_captured else named | {"x-bowsprit-capture": "deny"}


async def ask(
    client: openai.AsyncOpenAI,
    model: str,
    prompt: Prompt,
    *,
    is_speculative: bool = True,
    drafter: str | None = None,
    tenant: str | None = None,
    is_captured: bool = True,
) -> Answer:
    """One non-streaming answer, drafted by `drafter` alone if one is named. Raises what the client raises.

    Tenants share no recent answers: with one of its own, nobody looks up what another was told. What isn't captured is
    in no training data.
    """
    started_at, start = time.time(), time.monotonic()
    messages: Any = list(prompt.messages)
    completion = await client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=prompt.max_tokens,
        temperature=prompt.temperature,
        seed=prompt.seed,
        logit_bias=dict(prompt.logit_bias),
        extra_headers=headers(tenant=tenant, is_captured=is_captured),
        extra_body=speculation(is_on=is_speculative, drafter=drafter),
    )
    seconds = time.monotonic() - start
    figures = ((completion.model_extra or {}).get("metrics") or {}).get("speculative_decoding") or {}
    choice = completion.choices[0]
    return Answer(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        tokens=completion.usage.completion_tokens if completion.usage else 0,
        started_at=started_at,
        seconds=seconds,
        is_speculative=is_speculative,
        drafted=figures.get("num_draft_tokens", 0),
        accepted=figures.get("num_accepted_draft_tokens", 0),
        acceptance_length=figures.get("mean_acceptance_length"),
    )


async def ask_streaming(
    client: openai.AsyncOpenAI, model: str, prompt: Prompt, *, is_speculative: bool = True
) -> Answer:
    """One streamed answer. A request that breaks is an Answer too: `was_accepted` tells whether it had begun."""
    started_at, start = time.time(), time.monotonic()
    messages: Any = list(prompt.messages)
    pieces: list[str] = []
    finish_reason: str | None = None
    tokens = 0
    was_accepted = False
    error: str | None = None
    try:
        stream = await client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            seed=prompt.seed,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=speculation(is_on=is_speculative),
        )
        was_accepted = True
        async for chunk in stream:
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                finish_reason = choice.finish_reason or finish_reason
        if finish_reason is None:
            error = "the stream ended without a finish_reason"
    except (openai.APIError, httpx2.HTTPError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Answer(
        text="".join(pieces),
        finish_reason=finish_reason,
        tokens=tokens,
        started_at=started_at,
        seconds=time.monotonic() - start,
        is_speculative=is_speculative,
        was_accepted=was_accepted,
        error=error,
    )


async def send(
    client: openai.AsyncOpenAI,
    model: str,
    prompts: Iterable[Prompt],
    *,
    concurrency: int,
    is_speculative: bool = True,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> list[Answer]:
    """Answers in the prompts' order, `concurrency` requests at a time. Raises the first failure."""
    slots = asyncio.Semaphore(concurrency)

    async def one(prompt: Prompt) -> Answer:
        async with slots:
            answer = await ask(client, model, prompt, is_speculative=is_speculative)
        on_answer(answer)
        return answer

    return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))


async def side_by_side(
    client: openai.AsyncOpenAI,
    model: str,
    prompts: Sequence[Prompt],
    *,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> tuple[list[Answer], list[Answer]]:
    """Each prompt twice, one request at a time: (plain, speculative), in alternating order.

    A shared machine changes its speed by the minute; neighbours in time see the same machine.
    """
    plain: list[Answer] = []
    speculative: list[Answer] = []
    for index, prompt in enumerate(prompts):
        for is_speculative in (False, True) if index % 2 == 0 else (True, False):
            answer = await ask(client, model, prompt, is_speculative=is_speculative)
            (speculative if is_speculative else plain).append(answer)
            on_answer(answer)
    return plain, speculative


@asynccontextmanager
async def kept_up(request: Callable[[int], Awaitable[Answer]], *, concurrency: int) -> AsyncIterator[list[Answer]]:
    """Traffic that goes on while the body runs: `request(i)` for i = 0, 1, …; the body may read the answers so far.

    On leaving, requests in flight are waited for, none is cancelled.
    """
    answers: list[Answer] = []
    is_over = asyncio.Event()
    numbers = iter(range(10**9))

    async def worker() -> None:
        while not is_over.is_set():
            answers.append(await request(next(numbers)))

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        yield answers
    finally:
        is_over.set()
        await asyncio.gather(*workers)


def tokens_per_second(answers: Iterable[Answer]) -> float:
    """Tokens over seconds of answers that were asked for one at a time."""
    seen = list(answers)
    return sum(answer.tokens for answer in seen) / sum(answer.seconds for answer in seen)
