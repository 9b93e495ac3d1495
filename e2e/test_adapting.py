"""Traffic moves the table: another workload, another revision, acknowledged by every pod, its reason with numbers."""

from __future__ import annotations

import re

import openai

from kube import Json, eventually
from served_model import ServedModel
from traffic import Answer, Prompt, ask, kept_up

WORDS = ["anchor", "bowsprit", "capstan", "davit", "ensign", "fender", "gunwale", "halyard", "jib", "keel"]


def repeating(number: int) -> Prompt:
    """Text that was said before: an n-gram drafter is right nearly always."""
    text = f"Repeat the word '{WORDS[number % len(WORDS)]}' forty times."
    return Prompt(messages=({"role": "user", "content": text},), max_tokens=96)


def rambling(number: int) -> Prompt:
    """Text that nobody can predict: drafts are wrong nearly always."""
    text = f"Write something surprising about the number {number}."
    return Prompt(messages=({"role": "user", "content": text},), max_tokens=96, temperature=2.0, seed=number)


async def traffic_until_the_table_moves(model: ServedModel, client: openai.AsyncOpenAI, workload: object) -> Json:
    """The DraftPolicy after its next revision that every pod has acknowledged."""
    before = model.policy["spec"]["revision"]

    async def request(number: int) -> Answer:
        return await ask(client, model.name, workload(number))  # type: ignore[operator]

    def moved() -> Json | None:
        policy = model.policy
        has_moved = policy["spec"]["revision"] > before and model.has_everybody_acknowledged()
        return policy if has_moved else None

    async with kept_up(request, concurrency=2):
        return await eventually(moved, seconds=240, what=f"a revision above {before}")


async def test_a_change_of_workload_moves_the_table(smollm2: ServedModel) -> None:
    """Repeating, then rambling: the drafts get shorter, and the reason says what was measured."""
    await eventually(lambda: smollm2.kube.get("dpol", smollm2.name), seconds=60, what="the first DraftPolicy")
    async with smollm2.client() as client:

        async def request(number: int) -> Answer:
            return await ask(client, smollm2.name, repeating(number))

        async with kept_up(request, concurrency=2) as answers:
            await eventually(lambda: len(answers) >= 60, seconds=180, what="60 answers")
        repeated = smollm2.policy
        moved = await traffic_until_the_table_moves(smollm2, client, rambling)
    spec = moved["spec"]
    assert spec["table"] != repeated["spec"]["table"]
    assert re.search(r"\d+\.\d+", spec["message"])
    decisions = smollm2.resource["status"]["decisions"]
    newest = next(decision for decision in decisions if decision["kind"] == "DraftLength")
    assert (newest["reason"], newest["message"]) == (spec["reason"], spec["message"])
