"""A decision's record is enough to take it again, and decisions obey their limits whatever they look at."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bowsprit_policy import draft_length, record
from bowsprit_policy.acceptance import AcceptanceState
from bowsprit_policy.composition import Member, acceptance_length
from bowsprit_policy.control import ControlState
from bowsprit_policy.cost import CostState
from bowsprit_policy.decision import DecisionKind
from bowsprit_policy.observation import ControlSettings, DrafterSpec, SpeculationMode
from bowsprit_policy.replay import replay
from bowsprit_policy.table import caps_at, composed
from bowsprit_policy.table_decision import DrafterView, DraftLengthInputs
from bowsprit_policy.wire import DrafterState, DrafterType, StepCell
from policy.simulated_service import SimulatedDrafter, SimulatedService, loop


def service(seed: int = 3) -> SimulatedService:
    return SimulatedService(
        drafters=[
            SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=0.5, matches=(0.8,) * 8),
            SimulatedDrafter(name="head", type=DrafterType.HEAD, share=1.0, matches=(0.7,) * 8, unit_seconds=0.0003),
        ],
        step_seconds=lambda b, r: 0.004 + 0.0004 * r,
        seed=seed,
    )


def test_every_recorded_decision_of_a_run_replays_to_the_same_decision() -> None:
    """From its line alone: table, reason, message, alternatives."""
    simulated = service()
    calm = loop(simulated, 15)
    simulated.drafters[0].matches = (0.1,) * 8
    simulated.drafters[1].state = DrafterState.BROKEN
    steps = calm + loop(simulated, 10, state=calm[-1].state)
    lines = [decision.record for step in steps for decision in step.decisions]
    assert len(lines) >= 3
    assert [replay(line).is_same for line in lines] == [True] * len(lines)


def test_a_replay_with_other_inputs_gives_another_answer() -> None:
    """It does decide again, and doesn't just read the outcome."""
    line = loop(service(), 1)[0].decisions[0].record
    document = json.loads(line)
    document["inputs"]["settings"]["max_draft_tokens"] = 1
    assert not replay(json.dumps(document)).is_same


def test_a_record_is_one_line_with_inputs_outcome_and_alternatives() -> None:
    """Greppable, and readable by anything that reads JSON."""
    line = loop(service(), 1)[0].decisions[0].record
    document = json.loads(line)
    assert "\n" not in line
    assert (document["kind"], document["outcome"]["reason"]) == ("DraftLength", "FirstTable")
    assert len(document["outcome"]["rows"][0]["alternatives"]) == 8


def test_a_line_that_is_no_record_is_refused() -> None:
    """With pydantic's account of what is wrong."""
    with pytest.raises(ValidationError):
        replay('{"kind": "DraftLength"}')


def test_the_ring_keeps_the_newest_lines() -> None:
    """Oldest first."""
    assert record.kept(("a", "b"), ("c", "d"), size=3) == ("b", "c", "d")


def test_the_state_of_the_loop_survives_serialisation() -> None:
    """Nothing in it is tied to the process."""
    adapter = TypeAdapter(ControlState)
    state = loop(service(), 5)[-1].state
    assert adapter.validate_json(adapter.dump_json(state)) == state


counts = st.floats(0, 5000)
vectors = st.lists(counts, max_size=9).map(tuple)


def states(name: str, type: DrafterType) -> st.SearchStrategy[AcceptanceState]:
    return st.builds(
        AcceptanceState,
        name=st.just(name),
        type=st.just(type),
        revision=st.none(),
        drafts=st.integers(0, 5000),
        opportunities=counts,
        proposed=counts,
        reached=vectors,
        matched=vectors,
    )


cells = st.builds(
    StepCell,
    batch=st.sampled_from([1, 2, 4]),
    rows=st.integers(1, 24),
    context=st.sampled_from([128, 512]),
    steps=st.integers(1, 100),
    seconds=st.floats(1e-4, 10),
    tokens=st.integers(0, 500),
)


inputs = st.builds(
    DraftLengthInputs,
    now=st.floats(0, 1e4),
    settings=st.builds(
        ControlSettings,
        drafters=st.just(
            (DrafterSpec(name="ngram", type=DrafterType.NGRAM), DrafterSpec(name="head", type=DrafterType.HEAD))
        ),
        mode=st.sampled_from(SpeculationMode),
        min_draft_tokens=st.integers(0, 5),
        max_draft_tokens=st.integers(0, 5),
        fixed_draft_tokens=st.integers(0, 9),
    ),
    table=st.none()
    | st.dictionaries(st.sampled_from(["ngram", "head", "gone"]), st.integers(0, 9)).map(
        lambda caps: composed([(4, caps)])
    ),
    switched_at=st.dictionaries(st.sampled_from([1, 2, 4]), st.floats(0, 1e4)),
    drafters=st.tuples(
        st.builds(
            DrafterView, name=st.just("ngram"), type=st.just(DrafterType.NGRAM), state=st.sampled_from(DrafterState)
        ),
        st.builds(
            DrafterView, name=st.just("head"), type=st.just(DrafterType.HEAD), state=st.sampled_from(DrafterState)
        ),
    ),
    acceptance=st.tuples(states("ngram", DrafterType.NGRAM), states("head", DrafterType.HEAD)),
    cost=st.builds(CostState, profile=st.lists(cells, max_size=8, unique_by=lambda c: (c.batch, c.rows)).map(tuple)),
    draft_tokens_max=st.integers(0, 5),
    max_batch_size=st.integers(1, 8),
    batch_in_use=st.integers(1, 8),
    drafts=st.integers(0, 2000),
    missing_ticks=st.sampled_from([0, 0, 0, 1, 12]),
    contended_ticks=st.integers(0, 6),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs)
def test_any_inputs_give_a_decision_within_the_limits_that_replays(given_inputs: DraftLengthInputs) -> None:
    """Never raises; only admitted drafters; caps within min and max or 0; the last row unbounded; replays exactly."""
    outcome = draft_length.decide(given_inputs)
    line = record.line(kind=DecisionKind.DRAFT_LENGTH, at=1.0, inputs=given_inputs, outcome=outcome)
    assert replay(line).is_same
    if outcome.table is None:
        return
    limit = min(given_inputs.settings.max_draft_tokens, given_inputs.draft_tokens_max)
    admitted = {view.name for view in given_inputs.drafters if view.is_admitted}
    limits = [row.max_batch_size for row in outcome.table]
    assert limits[-1] is None
    assert None not in limits[:-1]
    for row in outcome.table:
        assert {cap.name for cap in row.drafters} <= admitted
        assert all(0 <= cap.draft_tokens <= limit for cap in row.drafters)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.floats(0.0, 0.3))
def test_where_nothing_pays_every_cap_is_0(batch: int, match: float) -> None:
    """Each further row costs as much as a whole step: no acceptance below 1 can pay that back."""
    hits = tuple(1000 * match ** (i + 1) for i in range(5))
    tried = (1000.0, *hits[:-1])
    known = AcceptanceState(
        name="head",
        type=DrafterType.HEAD,
        revision=None,
        drafts=5000,
        opportunities=1000.0,
        proposed=1000.0,
        reached=tried,
        matched=hits,
    )
    curve = tuple(
        StepCell(batch=b, rows=b * (1 + k), context=128, steps=10, seconds=0.1 * b * (1 + k), tokens=1)
        for b in (1, 2, 4)
        for k in range(6)
    )
    outcome = draft_length.decide(
        DraftLengthInputs(
            now=0.0,
            settings=ControlSettings(
                drafters=(DrafterSpec(name="head", type=DrafterType.HEAD),), min_draft_tokens=2, max_draft_tokens=5
            ),
            table=None,
            switched_at={},
            drafters=(DrafterView(name="head", type=DrafterType.HEAD, state=DrafterState.ACTIVE),),
            acceptance=(known,),
            cost=CostState(profile=curve),
            draft_tokens_max=5,
            max_batch_size=4,
            batch_in_use=batch,
            drafts=5000,
        )
    )
    assert outcome.table is not None
    assert caps_at(outcome.table, batch) == {"head": 0}


shares = st.floats(0, 1)


@given(shares, shares, st.lists(shares, min_size=8, max_size=8), st.integers(0, 7), st.integers(1, 8))
def test_a_longer_cap_never_lowers_the_acceptance_length(
    share: float, head_share: float, positions: list[float], k: int, other: int
) -> None:
    """For the last drafter of the pool, who takes no opportunity from anyone."""
    figures = {"positions": tuple(positions), "lengths": (1.0,) * 8, "unit_seconds": 0.0}
    pool = [
        Member(name="ngram", type=DrafterType.NGRAM, share=share, **figures),  # type: ignore[arg-type]
        Member(name="head", type=DrafterType.HEAD, share=head_share, **figures),  # type: ignore[arg-type]
    ]
    assert acceptance_length(pool, (other, k)) <= acceptance_length(pool, (other, k + 1)) + 1e-12
