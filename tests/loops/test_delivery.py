"""What pods are offered, in which role and order, by a Delivery that talks to fakes on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from bowsprit_operator.delivery import Delivery
from bowsprit_operator.fleet import Fleet, ScrapedPod
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicySpec, LoadedSpeculator
from bowsprit_operator.world.engines import Engines, PodAddress
from bowsprit_policy.wire import DrafterState
from loops.fake_engine import CONTROL_PORT, FakeEngine


def speculators(*revisions: str) -> tuple[DesiredSpeculator, ...]:
    return tuple(
        DesiredSpeculator(drafter="head", revision=name, uri=f"file:///s/{name}", sha256="b" * 64) for name in revisions
    )


@dataclass(slots=True, kw_only=True)
class Delivered:
    """One engine and what is delivered to it. `now` is the operator's clock; `message`: the pod's last complaint."""

    engine: FakeEngine
    fleet: Fleet
    delivery: Delivery
    now: float = 1000.0
    message: str | None = None

    async def scrape(self) -> tuple[ScrapedPod, ...]:
        engine = self.engine
        return await self.fleet.scrape([PodAddress(name="p", uid="u", ip=engine.ip, port=CONTROL_PORT)])

    async def tick(
        self, *, serving: str | None = None, candidate: str | None = None, pods: tuple[ScrapedPod, ...] | None = None
    ) -> LoadedSpeculator:
        """Deliver by this scrape, or a fresh one, and let what began end. What the pod acknowledged about its head."""
        self.now += 15.0
        spec = DraftPolicySpec(
            revision=1,
            speculators=() if serving is None else speculators(serving),
            candidates=() if candidate is None else speculators(candidate),
        )
        scraped = await self.scrape() if pods is None else pods
        (said,) = await self.delivery.deliver(spec, scraped, heads=["head"], now=self.now)
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("load ")))
        (head,), self.message = said.speculators, said.message
        return head

    def loads(self) -> list[tuple[str, str | None]]:
        """Role and revision of every load that the pod was asked for."""
        return [(load.role.value, load.revision) for _, load in self.engine.loads]


@pytest.fixture
async def pod() -> AsyncIterator[Delivered]:
    engines = Engines(token_file=None)
    async with FakeEngine().serving() as engine:
        delivered = Delivered(engine=engine, fleet=Fleet(engines), delivery=Delivery(engines))
        yield delivered
        await delivered.delivery.aclose()
    await engines.aclose()


async def test_a_promoted_shadow_is_served_before_anything_is_done_to_the_second_buffer(pod: Delivered) -> None:
    """The policy names it as serving and lists no candidate any more: dropping the shadow first would cost a read."""
    for _ in range(2):
        await pod.tick(serving="one")
    for _ in range(2):
        await pod.tick(serving="one", candidate="two")
    for _ in range(3):
        await pod.tick(serving="two")
    assert pod.loads() == [("serving", "one"), ("shadow", "two"), ("serving", "two")]
    assert pod.engine.reads == ["one", "two"]


async def test_what_should_serve_comes_before_the_candidate(pod: Delivered) -> None:
    """A pod that has neither says that its candidate waits."""
    waits = await pod.tick(serving="one", candidate="two")
    for _ in range(2):
        said = await pod.tick(serving="one", candidate="two")
    assert waits.shadow is not None
    assert (waits.shadow.state, waits.shadow.message) == ("Loading", "what should serve comes first")
    assert said.shadow is not None
    assert (said.revision, said.shadow.revision, said.shadow.state) == ("one", "two", "Scoring")
    assert pod.loads() == [("serving", "one"), ("shadow", "two")]


async def test_a_rejected_candidate_is_unloaded_and_another_takes_its_place(pod: Delivered) -> None:
    """The second buffer holds one at a time."""
    for candidate in ("one", "two", None):
        for _ in range(2):
            said = await pod.tick(candidate=candidate)
    assert (pod.loads(), said.shadow) == ([("shadow", "one"), ("shadow", "two"), ("shadow", None)], None)


async def test_a_scrape_from_before_a_load_brings_no_second_one(pod: Delivered) -> None:
    """The pod answered in between: what it loaded isn't read again, in either role."""
    for wanted in ({"serving": "one"}, {"serving": "one", "candidate": "two"}, {"serving": "two"}):
        stale = await pod.scrape()
        for _ in range(2):
            await pod.tick(**wanted, pods=stale)
        await pod.tick(**wanted)
    assert pod.engine.reads == ["one", "two"]


async def test_a_refused_candidate_is_offered_again_only_after_a_while(pod: Delivered) -> None:
    """Memory may be free then; until it is, the pod's words are told and its serving revision is no matter."""
    pod.engine.shadow_refusal = "no memory"
    for _ in range(2):
        await pod.tick(serving="one")
    for _ in range(4):
        said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert (said.revision, said.state, said.shadow.state) == ("one", "Active", "Refused")
    assert "no memory" in (said.shadow.message or "")
    assert pod.loads().count(("shadow", "two")) == 1
    pod.engine.shadow_refusal, pod.now = None, pod.now + 300.0
    for _ in range(2):
        said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert (said.shadow.state, said.shadow.message) == ("Scoring", None)


async def test_a_candidate_that_breaks_while_it_is_scored_is_told_with_the_engines_words(pod: Delivered) -> None:
    """What serves is as it was."""
    for _ in range(2):
        await pod.tick(serving="one")
    for _ in range(2):
        await pod.tick(serving="one", candidate="two")
    assert pod.engine.shadow is not None
    pod.engine.shadow = pod.engine.shadow.model_copy(update={"state": DrafterState.BROKEN, "reason": "not finite"})
    said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert (said.state, said.shadow.state, said.shadow.message) == ("Active", "Broken", "not finite")


async def test_a_revision_that_a_pod_read_and_did_not_keep_is_refused_with_its_words(pod: Delivered) -> None:
    """It answers 200, Broken, and serves on with what it had: reading it again at every tick would help nobody."""
    for _ in range(2):
        await pod.tick(serving="one")
    pod.engine.failed_self_test = "self-test: 0 of 64 tokens predicted"
    for _ in range(4):
        said = await pod.tick(serving="two")
    assert (said.revision, said.state) == ("one", "Broken")
    assert pod.loads().count(("serving", "two")) == 1
    assert pod.message == "head is Broken: self-test: 0 of 64 tokens predicted"


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        (422, {"type": "unusable_artifact", "code": "SelfTestFailed"}, "Broken"),
        (422, {"type": "unusable_artifact", "code": "ChecksumMismatch"}, "Broken"),
        (422, {"type": "unusable_artifact", "code": "Unreadable"}, "Refused"),
        (422, {"type": "unusable_artifact", "code": "DigestMismatch"}, "Refused"),
        (422, {"type": "invalid_request_error", "code": "invalid_value"}, "Refused"),
        (422, {}, "Refused"),
        (500, {"type": "server_error", "code": "internal_error"}, "Loading"),
        (503, {"type": "server_error", "code": "Draining"}, "Loading"),
        (429, {}, "Loading"),
    ],
)
async def test_a_broken_candidate_a_pod_that_cannot_take_one_and_one_that_cannot_now_are_told_apart(
    pod: Delivered, status: int, error: dict[str, str], state: str
) -> None:
    """The first is rejected, the second is left out, the third is tried again; each with the pod's words."""
    pod.engine.shadow_failure = status, error
    for _ in range(4):
        said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert (said.revision, said.shadow.state) == ("one", state)
    assert f"HTTP {status}" in (said.shadow.message or "")
    assert pod.loads().count(("shadow", "two")) == 1


async def test_what_a_pod_could_not_take_just_then_is_offered_again_soon(pod: Delivered) -> None:
    """Its reason passes by itself."""
    pod.engine.shadow_failure = 503, {}
    for _ in range(3):
        await pod.tick(serving="one", candidate="two")
    pod.engine.shadow_failure, pod.now = None, pod.now + 60.0
    for _ in range(2):
        said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert said.shadow.state == "Scoring"


async def test_an_engine_of_before_there_were_shadows_is_offered_none(pod: Delivered) -> None:
    """It takes any role for serving, and would serve what nobody has compared yet."""
    pod.engine.knows_shadows = False
    for _ in range(3):
        said = await pod.tick(serving="one", candidate="two")
    assert said.shadow is not None
    assert (said.revision, said.shadow.state) == ("one", "Unsupported")
    assert pod.loads() == [("serving", "one")]
