"""Traffic decides how long drafts are: another workload gets others, and each table that is written has its numbers.

Whose hand shortens them is not asked: the table's caps are upper bounds, within which an engine cuts at once what it is
unsure of. That a table moves is tested with engines that don't cut (tests/loops, tests/policy).
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import openai
import pytest

from installation import sample
from kube import Kube, eventually
from served_model import ServedModel
from traffic import Answer, Prompt, ask, kept_up

NUM_LATEST = 12  # answers that tell what drafts are like now
DIGIT_TOKENS = range(32, 42)  # SmolLM2's tokens of "0" to "9"
WORDS = ["anchor", "bowsprit", "capstan", "davit", "ensign", "fender", "gunwale", "halyard", "jib", "keel"]


def repeating(number: int) -> Prompt:
    """Text that was said before: an n-gram drafter is right nearly always."""
    text = f"Repeat the word '{WORDS[number % len(WORDS)]}' forty times."
    return Prompt(messages=({"role": "user", "content": text},), max_tokens=96)


def dicing(number: int) -> Prompt:
    """Digits at random after many others: an n-gram drafter nearly always proposes, and is nearly always wrong."""
    digits = "".join(random.Random(number).choices(string.digits, k=200))
    return Prompt(
        messages=({"role": "user", "content": f"Go on: {digits}"},),
        max_tokens=96,
        temperature=2.0,
        seed=number,
        logit_bias=dict.fromkeys(map(str, DIGIT_TOKENS), 100),
    )


@pytest.fixture
def adapting(kube: Kube) -> Iterator[ServedModel]:
    """A model of its own: nothing of this traffic is what another test's head learns from."""
    kube.apply(sample(kube.namespace, name="adapting", training__mode="Off"))
    yield ServedModel.when_ready(kube, "adapting")
    kube.delete("smodel", "adapting")


async def test_a_change_of_workload_shortens_drafts(adapting: ServedModel) -> None:
    """Repeating, then dicing: drafts get shorter by half; every pod executes the table, whose reason has numbers."""
    await eventually(lambda: adapting.kube.get("dpol", adapting.name), seconds=60, what="the first DraftPolicy")
    async with adapting.client() as client:
        async with traffic(adapting, client, repeating) as answers:
            await eventually(lambda: len(answers) >= 60, seconds=180, what="60 answers")
        long = draft_length(answers[-NUM_LATEST:])
        async with traffic(adapting, client, dicing) as answers:
            await eventually(lambda: is_shorter(answers, than=long / 2), seconds=240, what="drafts half as long")
    await eventually(adapting.has_everybody_acknowledged, seconds=60, what="the table in every pod")
    assert {answer.text.isdigit() for answer in answers} == {True}
    message = await eventually(lambda: message_in_both(adapting), seconds=60, what="the table's reason in status")
    assert re.search(r"\d+\.\d+", message)


def message_in_both(model: ServedModel) -> str | None:
    """What the DraftPolicy says of itself, once status.decisions says the same; None before."""
    spec = model.policy["spec"]
    decisions = model.resource["status"].get("decisions", [])
    newest = next((decision for decision in decisions if decision["kind"] == "DraftLength"), {})
    return (
        spec["message"] if (newest.get("reason"), newest.get("message")) == (spec["reason"], spec["message"]) else None
    )


def traffic(
    model: ServedModel, client: openai.AsyncOpenAI, workload: Callable[[int], Prompt]
) -> AbstractAsyncContextManager[list[Answer]]:
    """Two streams of a workload while the body runs."""
    return kept_up(lambda number: ask(client, model.name, workload(number)), concurrency=2)


def is_shorter(answers: Sequence[Answer], *, than: float) -> bool:
    """Whether the latest answers were drafted less per step."""
    latest = answers[-NUM_LATEST:]
    return len(latest) == NUM_LATEST and draft_length(latest) < than


def draft_length(answers: Sequence[Answer]) -> float:
    """Draft tokens per step, steps without a draft included: a step emits one token and what was accepted."""
    steps = sum(answer.tokens - answer.accepted for answer in answers)
    return sum(answer.drafted for answer in answers) / steps
