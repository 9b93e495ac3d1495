"""Traffic moves the table: another workload, another revision, acknowledged by every pod, its reason with numbers."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import openai
import pytest

from installation import sample
from kube import Json, Kube, eventually
from served_model import ServedModel
from traffic import Answer, Prompt, ask, kept_up

MAX_BATCH_SIZE = 8  # of the sample
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


async def test_a_change_of_workload_moves_the_table(adapting: ServedModel) -> None:
    """Repeating, then dicing: the drafts get shorter, and the reason says what was measured."""
    await eventually(lambda: adapting.kube.get("dpol", adapting.name), seconds=60, what="the first DraftPolicy")
    async with adapting.client() as client:
        async with traffic(adapting, client, repeating) as answers:
            await eventually(lambda: len(answers) >= 60, seconds=180, what="60 answers")
        before = adapting.policy["spec"]["revision"]
        async with traffic(adapting, client, dicing) as answers:
            await eventually(shorter_drafts(adapting), seconds=240, what="a table of shorter drafts in every pod")
    spec = adapting.policy["spec"]
    assert {answer.text.isdigit() for answer in answers} == {True}
    assert spec["revision"] > before
    assert re.search(r"\d+\.\d+", spec["message"])
    decisions = adapting.resource["status"]["decisions"]
    newest = next(decision for decision in decisions if decision["kind"] == "DraftLength")
    assert (newest["reason"], newest["message"]) == (spec["reason"], spec["message"])


def traffic(
    model: ServedModel, client: openai.AsyncOpenAI, workload: Callable[[int], Prompt]
) -> AbstractAsyncContextManager[list[Answer]]:
    """Two streams of a workload while the body runs."""
    return kept_up(lambda number: ask(client, model.name, workload(number)), concurrency=2)


def shorter_drafts(model: ServedModel) -> Callable[[], bool]:
    """Whether every pod executes a table of shorter drafts than some table since this was called.

    What was learnt of the traffic before may still lengthen them first.
    """
    longest = draft_tokens(model.policy["spec"])

    def has_shortened() -> bool:
        nonlocal longest
        now = draft_tokens(model.policy["spec"])
        longest = max(longest, now)
        return now < longest and model.has_everybody_acknowledged()

    return has_shortened


def draft_tokens(spec: Json) -> int:
    """The caps of a table, summed over every batch up to the engine's largest: rows may split and merge."""
    limits = [row.get("maxBatchSize") or MAX_BATCH_SIZE for row in spec["table"]]
    caps = [sum(drafter["draftTokens"] for drafter in row["drafters"]) for row in spec["table"]]
    rows = list(zip(limits, caps, strict=True))
    return sum(next(cap for limit, cap in rows if batch <= limit) for batch in range(1, MAX_BATCH_SIZE + 1))
