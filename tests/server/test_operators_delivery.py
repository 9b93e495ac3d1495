"""The operator's own delivery and judgement against a real engine's control port: into the shadow, and out of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_operator.delivery import Delivery
from bowsprit_operator.fleet import Fleet
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicySpec, PodAcknowledgement
from bowsprit_operator.world.engines import Engines, PodAddress
from bowsprit_policy import shadow
from bowsprit_policy.gate import Verdict
from bowsprit_policy.shadow import PodShadow, ShadowInputs, ShadowJudgement
from server.running_server import Serve
from server.shadowing_engine import shadowing_engine
from speculation.revised_head import RevisedHead, Weights, guessing, replaying

PROMPT = (5, 6, 7)
NOW = 1000.0


def speculator(revision: str) -> DesiredSpeculator:
    return DesiredSpeculator(drafter="head", revision=revision, uri=f"file:///claims/{revision}", sha256="a" * 64)


@dataclass
class Pod:
    """An engine and the operator's ways to it."""

    engine: Engine
    head: RevisedHead
    address: PodAddress
    engines: Engines
    delivery: Delivery = field(init=False)

    def __post_init__(self) -> None:
        self.delivery = Delivery(self.engines)

    async def deliver(self, *, serving: str, candidate: str | None = None) -> PodAcknowledgement:
        """Tick by tick until nothing is lacking any more."""
        spec = DraftPolicySpec(
            revision=1,
            speculators=(speculator(serving),),
            candidates=() if candidate is None else (speculator(candidate),),
        )
        while True:
            scraped = await Fleet(self.engines).scrape([self.address])
            (said,) = await self.delivery.deliver(spec, scraped, heads=["head"], now=NOW)
            (found,) = said.speculators
            shadowed = None if found.shadow is None else found.shadow.revision
            is_loading = found.shadow is not None and found.shadow.state is shadow.ShadowState.LOADING
            if (found.revision, shadowed) == (serving, candidate) and not is_loading:
                return said

    async def answer(self, num_tokens: int) -> list[int]:
        """Of one request, greedy."""
        tokens: list[int] = []
        loop, is_done = asyncio.get_running_loop(), asyncio.Event()

        def take(output: StepOutput) -> None:
            tokens.extend(output.token_ids)
            if output.finish_reason is not None:
                loop.call_soon_threadsafe(is_done.set)

        self.engine.submit(
            Request(
                request_id="r",
                prompt_token_ids=PROMPT,
                sampling=SamplingParams(seed=0, temperature=0.0, max_tokens=num_tokens),
                speculation=SpeculationParams(),
                on_output=take,
            )
        )
        await is_done.wait()
        return tokens

    async def judged(self, *, candidate: str, incumbent: str) -> ShadowJudgement:
        """By what the engine says that both scored."""
        stats = (await self.engines.stats(self.address)).drafters[0].shadow
        scoring = PodShadow(pod="p", state=shadow.ShadowState.SCORING, stats=stats)
        return shadow.decide(
            ShadowInputs(
                candidate=candidate, incumbent=incumbent, pods=(scoring,), elapsed_seconds=0.0, limit_seconds=60.0
            )
        )


@pytest.fixture
async def pod(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Pod]:
    """Its shadow drafts whenever it can. Revision `right` says what this engine answers, `one` and `two` anything."""
    files: dict[str, Weights] = {"one": guessing(1), "two": guessing(2)}
    head = RevisedHead(files)
    engine = shadowing_engine([head], max_model_len=512, monkeypatch=monkeypatch, cache=tmp_path)
    running = await serve(engine)
    await asyncio.to_thread(engine.wait_ready, 60)
    port = httpx.URL(running.control.base_url).port
    assert port is not None
    engines = Engines(token_file=None)
    found = Pod(
        engine=engine, head=head, address=PodAddress(name="p", uid="u", ip="127.0.0.1", port=port), engines=engines
    )
    files["right"] = replaying({"r": [*PROMPT, *await found.answer(200)]})
    yield found
    await found.delivery.aclose()
    await engines.aclose()


async def test_a_candidate_goes_through_the_shadow_into_service_and_is_read_once(pod: Pod) -> None:
    """Delivered, scored, found better than who serves, promoted: the second load finds it in memory."""
    await pod.deliver(serving="one")
    said = await pod.deliver(serving="one", candidate="right")
    assert [(each.revision, each.shadow and each.shadow.revision) for each in said.speculators] == [("one", "right")]
    await pod.answer(200)
    judgement = await pod.judged(candidate="right", incumbent="one")
    assert (judgement.verdict, judgement.reason) == (Verdict.PASSED, "BetterInShadow")
    said = await pod.deliver(serving="right")
    assert [(each.revision, each.shadow) for each in said.speculators] == [("right", None)]
    assert pod.head.reads == ["one", "right"]


async def test_a_worse_candidate_is_found_out_and_unloaded(pod: Pod) -> None:
    """Who serves is right: nothing that drafts otherwise gets past."""
    await pod.deliver(serving="right")
    await pod.deliver(serving="right", candidate="two")
    await pod.answer(200)
    judgement = await pod.judged(candidate="two", incumbent="right")
    assert (judgement.verdict, judgement.reason) == (Verdict.REJECTED, "WorseInShadow")
    said = await pod.deliver(serving="right")
    assert [(each.revision, each.shadow) for each in said.speculators] == [("right", None)]


async def test_a_candidate_that_is_not_what_it_should_be_is_broken_and_who_serves_stays(pod: Pod) -> None:
    """In the engine's own words."""
    await pod.deliver(serving="one")
    said = await pod.deliver(serving="one", candidate="no-such-file")
    (found,) = said.speculators
    assert found.shadow is not None
    assert (found.revision, found.state, found.shadow.state) == ("one", "Active", "Broken")
    assert "HTTP 422" in (found.shadow.message or "")
