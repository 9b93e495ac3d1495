"""What the field suffers from, one story each: a simulated service meets the trap, the loop must not fall in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from bowsprit_policy import control
from bowsprit_policy.acceptance import estimate
from bowsprit_policy.control import ControlState, ControlStep
from bowsprit_policy.decision import TableReason
from bowsprit_policy.observation import DrafterSpec, Observation, PodObservation, SpeculationMode
from bowsprit_policy.table import caps_at, composed
from bowsprit_policy.wire import DrafterState, DrafterType, TableRow
from policy.simulated_service import SimulatedDrafter, SimulatedService, loop


def memory_bound(_batch: int, rows: int) -> float:
    """Almost flat: a GPU at low load."""
    return 0.010 + 0.0001 * rows


def saturating(_batch: int, rows: int) -> float:
    """Flat to 8 rows, then every row costs: a CPU, or a GPU under load."""
    return 0.010 + 0.0001 * min(rows, 8) + 0.002 * max(0, rows - 8)


def stepped(_batch: int, rows: int) -> float:
    """A tile of 4 rows: the fifth costs as much as four."""
    return 0.010 * -(-rows // 4)


def head(*matches: float, **changes: object) -> SimulatedDrafter:
    padded = (*matches, *[matches[-1]] * (8 - len(matches)))
    return SimulatedDrafter(name="head", type=DrafterType.HEAD, share=1.0, matches=padded, **changes)  # type: ignore[arg-type]


def ngram(share: float, match: float) -> SimulatedDrafter:
    return SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=share, matches=(match,) * 8)


def caps(steps: list[ControlStep], batch: int) -> dict[str, int]:
    table = steps[-1].state.table
    assert table is not None
    return caps_at(table, batch)


def reasons(steps: list[ControlStep]) -> list[TableReason]:
    return [TableReason(decision.reason) for step in steps for decision in step.decisions]


def test_under_load_k_falls_although_acceptance_stays_the_same() -> None:
    """vllm#26504: acceptance flat from batch 1 to 32 while speculation goes from +23 % to -16 %."""
    service = SimulatedService(drafters=[head(0.8)], step_seconds=saturating, batch=1)
    quiet = loop(service, 15)
    service.batch = 8
    busy = loop(service, 15, state=quiet[-1].state)
    assert caps(quiet, 1)["head"] >= 4
    assert caps(busy, 8)["head"] <= 1
    first = [estimate(s[-1].state.acceptance[0], max_draft_tokens=1).positions[0].value for s in (quiet, busy)]
    assert first[0] == pytest.approx(first[1], abs=0.1)


def test_speculation_that_was_switched_off_comes_back_when_it_pays_again() -> None:
    """TensorRT-LLM#12905: its acceptance gate never turns on again. Probes at K=0 keep the estimates fresh."""
    service = SimulatedService(drafters=[head(0.02)], step_seconds=saturating, batch=8, steps_per_tick=1500)
    off = loop(service, 10)
    assert caps(off, 8) == {"head": 0}
    service.drafters[0].matches = (0.95,) * 8
    service.step_seconds = memory_bound
    on = loop(service, 60, state=off[-1].state)
    assert caps(on, 8)["head"] >= 4
    assert TableReason.SPECULATION_PAYS_AGAIN in reasons(on)


def test_silent_zero_acceptance_ends_at_k_0_and_not_in_an_average() -> None:
    """vllm-ascend#10495: a draft model that never matches costs its drafting and nothing else shows it."""
    service = SimulatedService(
        drafters=[ngram(0.3, 0.8), head(0.0, unit_seconds=0.001)], step_seconds=memory_bound, steps_per_tick=600
    )
    steps = loop(service, 20)
    assert caps(steps, 1)["head"] == 0
    assert caps(steps, 1)["ngram"] > 0


def test_a_pod_restart_is_no_change_of_workload() -> None:
    """Its counters begin again at zero: no estimate jumps, no table changes."""
    service = SimulatedService(drafters=[head(0.7)], step_seconds=memory_bound)
    before = loop(service, 20)
    service.restart()
    after = loop(service, 3, state=before[-1].state)
    assert reasons(after) == []
    assert after[-1].summary.acceptance_length == pytest.approx(before[-1].summary.acceptance_length, rel=0.05)


def test_a_contended_machine_holds_the_table_at_first() -> None:
    """On shared cores the same step takes up to a hundred times longer; that says nothing about K."""
    service = SimulatedService(drafters=[head(0.7)], step_seconds=memory_bound)
    quiet = loop(service, 10)
    service.contended_share, service.step_seconds = 0.9, lambda batch, rows: 0.010 * rows
    noisy = loop(service, 4, state=quiet[-1].state)
    assert reasons(noisy) == []


def test_a_machine_that_is_always_contended_adapts_by_its_quiet_steps() -> None:
    """Nine steps of ten say nothing from the first tick on; a drafter that was worth nothing and then is, is found."""
    service = SimulatedService(drafters=[head(0.05)], step_seconds=memory_bound, contended_share=0.9)
    poor = loop(service, 20)
    service.drafters = [head(0.7)]
    good = loop(service, 40, state=poor[-1].state)
    assert caps(poor, 1)["head"] <= 1
    assert caps(good, 1)["head"] >= 4


def test_without_a_profile_the_first_quiet_steps_give_the_first_table() -> None:
    """The start-up profile found no quiet moment, and most steps are contended: there is a table all the same."""
    service = SimulatedService(drafters=[head(0.7)], step_seconds=memory_bound, contended_share=0.9, has_profile=False)
    assert reasons(loop(service, 4))[0] == "FirstTable"


def test_noise_alone_switches_nothing() -> None:
    """Steps that vary by 30 % and a tie between neighbours: after settling, at most one move in 60 ticks."""
    service = SimulatedService(drafters=[head(0.75)], step_seconds=lambda b, r: 0.008 + 0.0012 * r, noise=0.3)
    settled = loop(service, 20)
    later = loop(service, 60, state=settled[-1].state)
    assert len(reasons(later)) <= 1


def test_on_a_curve_with_steps_k_stays_on_the_right_side_of_the_step() -> None:
    """Four rows cost what one does, five cost twice: K = 3, where hill-climbing over K sees a plateau and a cliff."""
    service = SimulatedService(drafters=[head(0.9)], step_seconds=stepped, batch=1)
    assert caps(loop(service, 15), 1) == {"head": 3}


def test_a_step_further_out_is_jumped_when_it_pays() -> None:
    """Rows 5 to 8 together are worth it at 0.97, though each of 5 and 6 alone would lose."""
    service = SimulatedService(drafters=[head(0.99)], step_seconds=lambda b, r: 0.010 if r <= 4 else 0.012)
    assert caps(loop(service, 30), 1)["head"] == 8


def test_a_broken_drafter_is_not_admitted_and_the_reason_says_so() -> None:
    """sglang#39087: a quantised draft with acceptance 0 must be visible, and the others go on."""
    service = SimulatedService(drafters=[ngram(0.5, 0.8), head(0.7)], step_seconds=memory_bound)
    fine = loop(service, 10)
    service.drafters[1].state, service.drafters[1].reason = DrafterState.BROKEN, "self-test: 0 of 64 tokens predicted"
    broken = loop(service, 1, state=fine[-1].state)
    assert list(caps(broken, 1)) == ["ngram"]
    assert reasons(broken) == [TableReason.DRAFTER_BROKEN]
    assert "head is Broken: self-test: 0 of 64 tokens predicted" in broken[0].message


def test_a_head_is_admitted_at_once_when_its_first_revision_is_loaded() -> None:
    """Promotion must show in the table at the next tick, not after a dwell time."""
    service = SimulatedService(
        drafters=[ngram(0.3, 0.7), head(0.6, state=DrafterState.EMPTY)], step_seconds=memory_bound
    )
    untrained = loop(service, 10)
    assert list(caps(untrained, 1)) == ["ngram"]
    service.drafters[1].state, service.drafters[1].revision = DrafterState.ACTIVE, "smollm2-head-1"
    trained = loop(service, 1, state=untrained[-1].state)
    assert caps(trained, 1)["head"] >= 1
    assert reasons(trained) == [TableReason.DRAFTER_ADMITTED]


@pytest.mark.parametrize(("evaluated", "least", "most"), [((0.8,) * 8, 6, 8), ((0.02,) * 8, 0, 0)])
def test_the_first_table_with_a_trained_head_rests_on_its_evaluation(
    evaluated: tuple[float, ...], least: int, most: int
) -> None:
    """Before it has drafted once: a good one gets long drafts, a useless one none."""
    service = SimulatedService(drafters=[head(0.5, state=DrafterState.EMPTY)], step_seconds=memory_bound)
    untrained = loop(service, 3)[-1].state
    service.drafters[0].state, service.drafters[0].revision = DrafterState.ACTIVE, "head-1"
    observation = Observation(pods=(PodObservation(uid="pod-1", stats=service.stats(), profile=service.profile),))
    spec = DrafterSpec(name="head", type=DrafterType.HEAD, evaluated=evaluated)
    step = control.step(untrained, observation, service.settings(drafters=(spec,)), 1e6)
    assert step.reason is TableReason.DRAFTER_ADMITTED
    assert least <= caps([step], 1)["head"] <= most


def silence(service: SimulatedService, state: ControlState, ticks: int) -> list[ControlStep]:
    steps = []
    for tick in range(ticks):
        observation = Observation(pods=(PodObservation(uid="pod-1", stats=None),))
        steps.append(control.step(state, observation, service.settings(), 10_000.0 + 15 * tick))
        state = steps[-1].state
    return steps


@pytest.mark.parametrize(("curve", "safe"), [(memory_bound, 1), (lambda b, r: 0.010 * r, 0)])
def test_without_metrics_the_table_holds_for_ten_ticks_and_then_is_safe(
    curve: Callable[[int, int], float], safe: int
) -> None:
    """K=1, or 0 where the profile says that K=1 loses."""
    service = SimulatedService(drafters=[head(0.8)], step_seconds=curve)
    known = loop(service, 5)
    steps = silence(service, known[-1].state, 12)
    expected = [(TableReason.METRICS_MISSING, None)] * 9
    assert [(step.reason, step.table) for step in steps[:9]] == expected
    assert {step.reason for step in steps[9:]} == {TableReason.SAFE_TABLE}
    assert caps(steps, 1) == {"head": safe}
    assert not steps[-1].summary.has_metrics


def test_one_silent_pod_of_two_is_left_out() -> None:
    """The other one's figures still decide."""
    service = SimulatedService(drafters=[head(0.8)], step_seconds=memory_bound)
    state, steps = control.begin(table=None), []
    for tick in range(10):
        service.run(state.table)
        pods = (
            PodObservation(uid="a", stats=service.stats(), profile=service.profile),
            PodObservation(uid="b", stats=None),
        )
        steps.append(control.step(state, Observation(pods=pods), service.settings(), 15.0 * tick))
        state = steps[-1].state
    assert steps[-1].summary.has_metrics
    assert caps(steps, 1)["head"] >= 4


def test_a_new_leader_corrects_a_plainly_wrong_table_before_it_has_seen_500_drafts() -> None:
    """On a service that is asked once a minute 500 drafts take an hour; K=7 at a match of 0.05 need not wait."""
    service = SimulatedService(drafters=[head(0.05)], step_seconds=lambda b, r: 0.005 * r, steps_per_tick=10)
    steps = loop(service, 30, state=control.begin(table=stored(head=7)))
    drafts = next(step.state.drafts for step in steps if step.table is not None)
    assert 10 < drafts < 250


@pytest.mark.parametrize(
    ("drafts", "reason"),
    [(0, TableReason.WARMING_UP), (40, TableReason.WARMING_UP), (500, TableReason.GOODPUT_GAIN)],
)
def test_a_new_leader_holds_the_stored_table_against_small_gains_until_it_has_seen_500_drafts(
    drafts: int, reason: TableReason
) -> None:
    """Its predecessor chose K=5 on more evidence than it has; K=8 would give 3 % more."""
    service = SimulatedService(
        drafters=[head(0.7)], step_seconds=lambda b, r: 0.010 + 0.0002 * r, steps_per_tick=3000, noise=0.01
    )
    known = loop(service, 4, mode=SpeculationMode.FIXED, fixed_draft_tokens=5)[-1].state
    observation = Observation(pods=(PodObservation(uid="pod-1", stats=service.stats()),))
    step = control.step(replace(known, drafts=drafts), observation, service.settings(), 1e6)
    assert step.reason is reason


def test_a_new_leader_begins_with_what_pods_did_before_it() -> None:
    """Their counters since they began beat the stated prior of 0.35, and weigh as little as 100 drafts."""
    service = SimulatedService(drafters=[head(0.9)], step_seconds=memory_bound, steps_per_tick=3000)
    begun = loop(service, 1, state=control.begin(table=stored(head=4)))[-1].state
    assert estimate(begun.acceptance[0], max_draft_tokens=1).positions[0].value == pytest.approx(0.9, abs=0.06)
    assert begun.acceptance[0].reached[0] <= 100
    assert max(cell.steps for cell in begun.cost.measured) <= 64
    assert begun.drafts == 0


def stored(**caps: int) -> tuple[TableRow, ...]:
    """The table of a former leader: one row."""
    return composed([(8, caps)])


def test_a_service_at_k_0_leaves_it_by_what_was_emitted_without_any_probe() -> None:
    """Hostile traffic ends speculation; on friendly traffic look-up is seen to be right, and drafts within 8 ticks."""
    service = SimulatedService(
        drafters=[ngram(0.3, 0.05)], step_seconds=lambda b, r: 0.004 + 0.001 * r, batch=4, has_wide_probes=False
    )
    hostile = loop(service, 12)
    assert caps(hostile, 4) == {"ngram": 0}
    service.drafters[0].share, service.drafters[0].matches = 0.9, (0.95,) * 8
    friendly = loop(service, 8, state=hostile[-1].state)
    assert caps(friendly, 4)["ngram"] >= 4
    assert TableReason.SPECULATION_PAYS_AGAIN in reasons(friendly)


def test_two_switches_of_a_row_are_a_dwell_time_apart() -> None:
    """However clear the next gain is: the traffic turns every 225 s, a row may switch every 600 s."""
    service = SimulatedService(
        drafters=[ngram(0.9, 0.9)], step_seconds=lambda b, r: 0.004 + 0.001 * r, batch=4, steps_per_tick=1500
    )
    steps = loop(service, 3, dwell_seconds=600.0)
    for match in (0.05, 0.9) * 5:
        service.drafters[0].matches = (match,) * 8
        steps += loop(service, 3, state=steps[-1].state, dwell_seconds=600.0)
    times = sorted({step.state.switched_at[4] for step in steps})
    assert len(times) >= 3
    assert all(later - earlier >= 600 for earlier, later in pairwise(times))
    assert TableReason.DWELL_TIME in [step.reason for step in steps]


def test_fixed_and_off_are_obeyed_and_auto_takes_over_again() -> None:
    """The user's word holds over any estimate, within what the engine can."""
    service = SimulatedService(drafters=[head(0.1)], step_seconds=saturating, batch=8)
    fixed = loop(service, 2, mode=SpeculationMode.FIXED, fixed_draft_tokens=12)
    off = loop(service, 2, state=fixed[-1].state, mode=SpeculationMode.OFF)
    auto = loop(service, 2, state=off[-1].state)
    assert [caps(steps, 8) for steps in (fixed, off, auto)] == [{"head": 8}, {}, {"head": 0}]
    assert [reasons(steps)[0] for steps in (fixed, off)] == [TableReason.FIXED_BY_SPEC, TableReason.OFF_BY_SPEC]


def test_a_fixed_length_holds_for_every_drafter_of_the_list() -> None:
    """Eight of them, of which three may draft; the one that gives most is named in status."""
    service = SimulatedService(drafters=[ngram(0.4, 0.6), head(0.8)], step_seconds=memory_bound)
    names = [f"other-{n}" for n in range(6)]
    listed = service.settings().drafters + tuple(DrafterSpec(name=name, type=DrafterType.NGRAM) for name in names)
    service.drafters.append(SimulatedDrafter(name="other-3", type=DrafterType.NGRAM, share=0.1, matches=(0.1,) * 8))
    steps = loop(service, 4, drafters=listed, mode=SpeculationMode.FIXED, fixed_draft_tokens=5)
    assert caps(steps, 1) == {"ngram": 5, "other-3": 5, "head": 5}
    assert steps[-1].summary.drafter == "head"


def test_min_draft_tokens_never_overrides_k_0() -> None:
    """At K=0 or from the minimum up, never in between."""
    service = SimulatedService(drafters=[head(0.05)], step_seconds=saturating, batch=8)
    steps = loop(service, 10, min_draft_tokens=3)
    assert caps(steps, 8) == {"head": 0}
    assert caps(steps, 1)["head"] in (0, 3, 4, 5, 6, 7, 8)


def test_another_target_model_begins_all_estimates_again() -> None:
    """What was learned of the old target says nothing of the new one; the table holds meanwhile."""
    service = SimulatedService(drafters=[head(0.8)], step_seconds=memory_bound)
    old = loop(service, 10)
    other = service.stats().model_copy(update={"model_digest": "b" * 64, "boot_id": "new", "drafters": (), "cells": ()})
    observation = Observation(pods=(PodObservation(uid="pod-2", stats=other),))
    step = control.step(old[-1].state, observation, service.settings(), 9_999.0)
    assert (step.state.acceptance, step.state.drafts, step.table) == ((), 0, None)


def test_the_message_has_the_numbers() -> None:
    """What moved, where, and what it is expected to give, with two standard errors."""
    service = SimulatedService(drafters=[head(0.85)], step_seconds=memory_bound, steps_per_tick=1000)
    moved = [step for step in loop(service, 15) if TableReason.GOODPUT_GAIN in (step.reason,) and step.table]
    assert moved[0].message.startswith("K ")
    for word in (" → ", " at batch ≤ ", ": E ", ", step ", " ms, goodput +", " % ± "):
        assert word in moved[0].message
