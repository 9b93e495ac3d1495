"""What pods say of their drafters, from the control port to the objects that users read: a loop without a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bowsprit_operator.control_loop import ControlLoop, key_of
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import Summaries
from bowsprit_operator.world.engines import Engines
from bowsprit_policy.wire import DrafterState, LoweredDrafter
from loops.fake_engine import FakeEngine
from loops.looped import Looped, looping

HELD = LoweredDrafter(name="ngram", draft_tokens=0, batches=(4, 8), reason="LowAcceptance", message="loses at 4 and 8")


@pytest.fixture
async def looped() -> AsyncIterator[Looped]:
    async with looping(FakeEngine()) as looped:
        yield looped


async def test_what_an_engine_holds_below_the_table_is_in_the_policy_and_in_the_report(looped: Looped) -> None:
    """By drafter and batch, with the engine's reason; gone when the engine restored it."""
    await looped.tick()
    looped.engine.lowered = (HELD,)
    await looped.tick()
    assert (looped.acknowledged, looped.summary.pods[0].lowered) == ((HELD,), (HELD,))
    looped.engine.lowered = ()
    await looped.tick()
    assert (looped.acknowledged, looped.summary.pods[0].lowered) == ((), ())


async def test_the_answer_to_a_push_is_newer_than_the_scrape_before_it(looped: Looped) -> None:
    """What the new table made the engine lower is acknowledged in the same tick."""
    looped.engine.lowered_by_push = (HELD,)
    await looped.tick()
    assert (len(looped.engine.pushes), looped.acknowledged) == (1, (HELD,))


async def test_a_drafter_that_breaks_in_a_pod_is_in_its_report_and_out_of_the_table(looped: Looped) -> None:
    """Whatever its type; the reason is the engine's."""
    await looped.tick()
    broken = looped.engine.service.drafters[0]
    broken.state, broken.reason = DrafterState.BROKEN, "RuntimeError: boom"
    await looped.tick()
    (pod,) = looped.summary.pods
    assert [(drafter.name, drafter.reason) for drafter in pod.drafters if drafter.state is DrafterState.BROKEN] == [
        ("ngram", "RuntimeError: boom")
    ]
    spec = looped.policy.spec
    assert [row.drafters for row in spec.table] == [()]
    assert (spec.reason, looped.summary.decisions[0].reason) == ("DrafterBroken", "DrafterBroken")
    assert spec.message.startswith("ngram is Broken: RuntimeError: boom: ")


async def test_a_loop_that_begins_anew_reports_what_pods_hold_at_once(looped: Looped) -> None:
    """Another leader takes over: the pods say it again."""
    looped.engine.lowered = (HELD,)
    await looped.tick()
    engines = Engines(token_file=None)
    summaries, stored = Summaries(), looped.stored
    loop = ControlLoop(stored, engines, OperatorSettings(engine_token_file=None), summaries)
    await loop.tick(looped.now + 15.0)
    assert summaries.of(key_of(stored.model)).pods[0].lowered == (HELD,)
    await loop.aclose()
    await engines.aclose()
