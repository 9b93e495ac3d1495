"""A trained head becomes one of the drafters in force: what its admission is based on, and what users read of it."""

from __future__ import annotations

import pytest

from bowsprit_operator.resources.speculative_model import DecisionEntry, SpeculativeModelStatus
from bowsprit_operator.resources.speculator_revision import RevisionEvaluation, SpeculatorRevision
from bowsprit_operator.serving import happenings
from bowsprit_policy.decision import Decision
from bowsprit_policy.table import caps_at
from bowsprit_policy.wire import DrafterType, Evaluation
from builders import comparison
from loops.fake_engine import FakeEngine
from loops.learning_objects import a_revision
from loops.looped import Looped, looping
from policy.simulated_service import SimulatedDrafter, SimulatedService

BATCHES = (1, 2, 4, 8)
GREAT, USELESS = (0.95,) * 8, (0.02,) * 8


def engine(*, match: float = 0.5) -> FakeEngine:
    """Look-up that is asked first and seldom right, and a head that matches fairly, or as said."""
    look_up = SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=0.5, matches=(0.4,) * 32)
    head = SimulatedDrafter(name="head", type=DrafterType.HEAD, share=1.0, matches=(match,) * 32)
    service = SimulatedService(drafters=[look_up, head], step_seconds=lambda batch, rows: 0.010 + 0.0005 * rows)
    served = FakeEngine(service=service)
    served.restart()  # without a speculator
    return served


def evaluated(number: int, per_position: tuple[float, ...]) -> SpeculatorRevision:
    revision = a_revision(number)
    evaluation = RevisionEvaluation.of(Evaluation(recent=comparison(per_position=per_position)))
    return revision.model_copy(update={"spec": revision.spec.model_copy(update={"evaluation": evaluation})})


def caps(looped: Looped, name: str) -> list[int]:
    return [caps_at(looped.policy.spec.table, batch)[name] for batch in BATCHES]


async def settled(looped: Looped) -> list[int]:
    """Look-up alone, for a while; its caps."""
    for _ in range(8):
        await looped.tick()
    return caps(looped, "ngram")


async def admitted(looped: Looped, revision: SpeculatorRevision) -> None:
    """Until the table knows the head: it is loaded by one tick, and told by the pod in the next."""
    looped.stored.should_serve(revision)
    for _ in range(4):
        await looped.tick()
        if "head" in caps_at(looped.policy.spec.table, 1):
            return
    raise AssertionError(f"not admitted: {looped.policy.spec.message}")


def event_of(decision: Decision) -> str:
    """What `kubectl describe` shows of it."""
    entry = DecisionEntry(
        time="2026-11-27T08:00:00Z", kind=decision.kind, reason=decision.reason, message=decision.message
    )
    (event,) = happenings.of_change(SpeculativeModelStatus(), SpeculativeModelStatus(decisions=(entry,)))
    return event.note


@pytest.mark.parametrize(("expected", "is_asked"), [(GREAT, True), (USELESS, False)])
async def test_a_head_is_admitted_by_its_evaluation_beside_look_up(expected: tuple[float, ...], is_asked: bool) -> None:
    """The pod gets a table in which look-up has what it had at every batch size, and the head what it is worth."""
    async with looping(engine(match=0.5 if is_asked else 0.02)) as looped:
        before = await settled(looped)
        await admitted(looped, evaluated(1, expected))
        assert caps(looped, "ngram") == before
        assert [cap > 0 for cap in caps(looped, "head")] == [is_asked] * len(BATCHES)
        assert looped.engine.table == looped.policy.spec.table
        await looped.tick()
        assert [cap > 0 for cap in caps(looped, "ngram")] == [cap > 0 for cap in before]


async def test_policy_decision_and_event_say_on_what_terms() -> None:
    """The revision, what it is expected to give, and what was not taken from look-up for it."""
    async with looping(engine()) as looped:
        await settled(looped)
        await admitted(looped, evaluated(1, GREAT))
        said, (decision, *_) = looped.policy.spec.message or "", looped.summary.decisions
        assert (looped.policy.spec.reason, decision.reason) == ("DrafterAdmitted", "DrafterAdmitted")
        assert said.startswith("head (m-head-1) may draft now: head none → ")
        assert "is expected to give more, but for that nothing is taken from ngram before it is measured" in said
        assert event_of(decision) == f"DrafterAdmitted: {said}"


async def test_a_second_revision_is_admitted_by_its_own_evaluation() -> None:
    """The first was measured, lost and was held at 0; the second isn't the first."""
    async with looping(engine(match=0.01)) as looped:
        await settled(looped)
        await admitted(looped, evaluated(1, GREAT))
        for _ in range(25):
            await looped.tick()
        before = caps(looped, "ngram")
        assert caps(looped, "head") == [0, 0, 0, 0]
        looped.stored.should_serve(evaluated(2, GREAT))
        for _ in range(3):
            await looped.tick()
            if looped.policy.spec.reason == "DrafterAdmitted":
                break
        assert (looped.policy.spec.message or "").startswith("head (m-head-2) may draft now: head 0 → ")
        assert caps(looped, "ngram") == before
