"""A drafter of which nothing was seen yet: it is measured, and what is expected of it takes nothing from the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bowsprit_policy import control
from bowsprit_policy.control import ControlStep
from bowsprit_policy.decision import TableReason
from bowsprit_policy.observation import SpeculationMode
from bowsprit_policy.replay import replay
from bowsprit_policy.table import caps_at
from bowsprit_policy.wire import DrafterState, DrafterType
from policy.simulated_service import SimulatedDrafter, SimulatedService, loop

Curve = Callable[[int, int], float]
BATCHES = (1, 2, 4)

GREAT = (0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.6, 0.6)
FAIR = (0.6, 0.45, 0.35, 0.3, 0.3, 0.3, 0.3, 0.3)
USELESS = (0.05,) * 8


def flat(_batch: int, rows: int) -> float:
    """A card at low load: rows are nearly free."""
    return 0.010 + 0.0001 * rows


def cpu(_batch: int, rows: int) -> float:
    """Every row costs."""
    return 0.0035 + 0.0004 * rows


def steep(_batch: int, rows: int) -> float:
    """So dear that only near certainty is worth a row."""
    return 0.002 + 0.001 * rows


def suffix(share: float = 0.6, match: float = 0.75) -> SimulatedDrafter:
    return SimulatedDrafter(name="suffix", type=DrafterType.SUFFIX, share=share, matches=(match,) * 8)


def untrained(name: str = "head", type: DrafterType = DrafterType.HEAD) -> SimulatedDrafter:
    """It waits for its first revision."""
    return SimulatedDrafter(
        name=name, type=type, share=1.0, matches=USELESS, unit_seconds=0.0002, state=DrafterState.EMPTY
    )


def service(step_seconds: Curve = cpu, *drafters: SimulatedDrafter, batch: int = 1) -> SimulatedService:
    return SimulatedService(
        drafters=list(drafters) or [suffix(), untrained()],
        step_seconds=step_seconds,
        batch=batch,
        max_batch_size=4,
        steps_per_tick=600,
    )


def tables(step: ControlStep) -> list[dict[str, int]]:
    return [caps_at(step.state.table or (), batch) for batch in BATCHES]


def of(name: str, step: ControlStep) -> list[int | None]:
    """Its cap at every batch bucket."""
    return [caps.get(name) for caps in tables(step)]


def at_one(step: ControlStep) -> dict[str, int]:
    return caps_at(step.state.table or (), 1)


EXPECTATIONS = {"too high": (0.95,) * 8, "right": None, "too low": USELESS}


@pytest.mark.parametrize(("curve", "batch"), [(flat, 1), (cpu, 4)])
@pytest.mark.parametrize("truth", [GREAT, FAIR, USELESS], ids=["great", "fair", "useless"])
@pytest.mark.parametrize("expectation", EXPECTATIONS)
def test_whatever_is_expected_of_a_head_look_up_keeps_its_caps_and_the_best_table_is_found(
    expectation: str, truth: tuple[float, ...], curve: Curve, batch: int
) -> None:
    """At its admission and in the tick after it; then figures decide: within 4 % of the truly best table."""
    simulated = service(curve, batch=batch)
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=truth, evaluated=EXPECTATIONS[expectation] or truth)
    admitted, after = loop(simulated, 2, state=before.state)
    assert admitted.reason is TableReason.DRAFTER_ADMITTED
    assert of("suffix", admitted) == of("suffix", before)
    assert [cap == 0 for cap in of("suffix", after)] == [cap == 0 for cap in of("suffix", before)]
    later = loop(simulated, 20, state=after.state)[-1]
    reached = simulated.true_goodput(caps_at(later.state.table or (), batch), batch)
    assert reached >= 0.96 * simulated.best_goodput(batch)


def test_a_head_that_is_better_without_look_up_takes_its_place_once_it_was_measured() -> None:
    """Not before more was seen than expected, and not never: look-up is asked first and spoils its turns."""
    simulated = service(flat, suffix(share=0.4, match=0.3), untrained())
    before = loop(simulated, 8, dwell_seconds=0.0)[-1]
    simulated.load("head", "head-1", matches=GREAT, evaluated=GREAT)
    simulated.steps_per_tick = 20
    steps = loop(simulated, 30, state=before.state, dwell_seconds=0.0)
    lowered = next(step for step in steps if at_one(step)["suffix"] == 0)
    assert at_one(before)["suffix"] > 0
    assert next(one for one in lowered.state.acceptance if one.name == "head").num_scored > 10
    held = [step for step in steps if step.reason is TableReason.NOT_YET_MEASURED]
    assert "but lowers a drafter for what few drafts say: head has " in held[0].message


def test_while_all_that_is_better_would_lower_look_up_a_cap_of_the_newcomers_own_still_rises() -> None:
    """It was expected to match nothing; its probes say otherwise."""
    simulated = service(cpu, suffix(share=0.4, match=0.5), untrained())
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=GREAT, evaluated=USELESS)
    simulated.steps_per_tick = 10
    admitted = loop(simulated, 1, state=before.state)[0]
    simulated.steps_per_tick = 600
    raised = next(step for step in loop(simulated, 12, state=admitted.state) if at_one(step)["head"] > 0)
    assert at_one(admitted)["head"] == 0
    assert at_one(raised)["suffix"] == at_one(before)["suffix"] > 0


def test_the_message_tells_what_a_newcomer_got_and_what_was_not_taken_for_it() -> None:
    """Its revision, its caps, what they are expected to give, and the table that was left out."""
    simulated = service(flat, suffix(share=0.4, match=0.3), untrained())
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=GREAT, evaluated=GREAT)
    admitted = loop(simulated, 1, state=before.state)[0]
    kept, given = at_one(admitted)["suffix"], at_one(admitted)["head"]
    assert admitted.message.startswith(f"head (head-1) may draft now: head none → {given} at batch ≤ 1: expected E ")
    assert f"; K suffix 0, head {given} is expected to give more, but for that nothing is taken from suffix before" in (
        admitted.message
    )
    assert (kept > 0, [replay(one.record).is_same for one in admitted.decisions]) == (True, [True])


def test_a_newcomer_that_is_expected_to_lose_gets_nothing_and_the_message_says_so() -> None:
    """Probes measure it."""
    simulated = service(steep)
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=USELESS, evaluated=USELESS)
    admitted = loop(simulated, 1, state=before.state)[0]
    assert of("head", admitted) == [0, 0, 0]
    assert admitted.message.startswith(
        "head (head-1) may draft now: head none → 0 at batch ≤ 1: it isn't expected to pay, and is measured by probes"
    )


def test_beside_look_up_that_leaves_it_no_turn_a_newcomer_gets_the_cap_that_it_would_have_alone() -> None:
    """It gains nothing there by the model of the pool, and costs nothing; at 0 it would be measured by probes only."""
    simulated = service(flat, suffix(share=1.0, match=0.75), untrained())
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=FAIR, evaluated=FAIR)
    admitted = loop(simulated, 1, state=before.state)[0]
    assert min(cap or 0 for cap in of("head", admitted)) >= 2
    assert of("suffix", admitted) == of("suffix", before)
    assert ", which isn't much, but so it is measured" in admitted.message


def test_where_look_up_is_at_0_a_newcomer_may_draft_and_look_up_stays_at_0() -> None:
    """What lowered it was measured; raising it again is a move like any other."""
    simulated = service(cpu, suffix(share=0.9, match=0.05), untrained())
    before = loop(simulated, 8)[-1]
    assert of("suffix", before) == [0, 0, 0]
    simulated.load("head", "head-1", matches=GREAT, evaluated=GREAT)
    admitted = loop(simulated, 1, state=before.state)[0]
    assert of("suffix", admitted) == [0, 0, 0]
    assert min(cap or 0 for cap in of("head", admitted)) >= 1


def test_a_second_newcomer_takes_nothing_from_the_first() -> None:
    """A small model arrives a tick after the head's first revision: what is in force stays, measured or not."""
    simulated = service(flat, suffix(), untrained(), untrained("small", DrafterType.MODEL))
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=FAIR, evaluated=FAIR)
    simulated.steps_per_tick = 1
    first = loop(simulated, 1, state=before.state)[0]
    simulated.load("small", "small-1", matches=GREAT, evaluated=GREAT)
    second, after = loop(simulated, 2, state=first.state)
    assert min(cap or 0 for cap in of("head", first)) >= 1
    assert second.reason is TableReason.DRAFTER_ADMITTED
    for name in ("suffix", "head"):
        assert of(name, second) == of(name, after) == of(name, first)
    assert min(cap or 0 for cap in of("small", second)) >= 1


def test_a_drafter_that_breaks_is_no_occasion_to_lower_another_for_a_newcomer() -> None:
    """n-gram look-up breaks a tick after the head was admitted: suffix look-up keeps at least what it had."""
    ngram = SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=0.3, matches=(0.6,) * 8)
    simulated = service(flat, suffix(share=0.4, match=0.3), ngram, untrained())
    before = loop(simulated, 8)[-1]
    simulated.load("head", "head-1", matches=GREAT, evaluated=GREAT)
    simulated.steps_per_tick = 1
    first = loop(simulated, 1, state=before.state)[0]
    simulated.drafters[1].state = DrafterState.BROKEN
    broken = loop(simulated, 1, state=first.state)[0]
    assert broken.reason is TableReason.DRAFTER_BROKEN
    assert [list(caps) for caps in tables(broken)] == [["suffix", "head"]] * len(BATCHES)
    assert all((now or 0) >= (was or 0) for now, was in zip(of("suffix", broken), of("suffix", first), strict=True))


def test_a_new_revision_where_the_last_one_had_lost_everything_is_measured() -> None:
    """The caps of 0 were the last one's: one that is expected to pay gets its own at once, and the message names it."""
    simulated = service()
    simulated.load("head", "head-1", matches=USELESS, evaluated=FAIR)
    before = loop(simulated, 15)[-1]
    assert of("head", before) == [0, 0, 0]
    simulated.load("head", "head-2", matches=FAIR, evaluated=FAIR)
    swapped = loop(simulated, 1, state=before.state)[0]
    assert swapped.reason is TableReason.DRAFTER_ADMITTED
    assert min(cap or 0 for cap in of("head", swapped)) >= 1
    assert of("suffix", swapped) == of("suffix", before)
    assert swapped.message.startswith("head (head-2) may draft now: head 0 → ")


def test_a_new_revision_of_which_nothing_is_expected_stays_where_the_last_one_was() -> None:
    """A rollback to a poor one, say: no decision."""
    simulated = service()
    simulated.load("head", "head-2", matches=USELESS, evaluated=USELESS)
    before = loop(simulated, 15)[-1]
    simulated.load("head", "head-1", matches=USELESS, evaluated=USELESS)
    after = loop(simulated, 2, state=before.state)
    assert (of("head", before), of("head", after[-1])) == ([0, 0, 0], [0, 0, 0])
    assert [decision.reason for step in after for decision in step.decisions] == []


def test_a_new_revision_where_the_last_one_had_taken_everything_has_to_be_measured_before_it_keeps_look_up_down() -> (
    None
):
    """A rollback to a head that is expected to be worse: look-up may rise at once, by what is seen of it."""
    simulated = service(flat, suffix(share=0.4, match=0.3), untrained())
    simulated.load("head", "head-2", matches=GREAT, evaluated=GREAT)
    before = loop(simulated, 20)[-1]
    assert at_one(before)["suffix"] == 0
    simulated.load("head", "head-1", matches=USELESS, evaluated=GREAT)
    later = loop(simulated, 20, state=before.state)[-1]
    assert at_one(later)["suffix"] > 0
    assert simulated.true_goodput(at_one(later), 1) >= 0.96 * simulated.best_goodput(1)


def test_a_new_leader_does_not_take_a_head_that_pods_have_not_asked_yet_for_a_newcomer() -> None:
    """Its predecessor held it at 0, pods were restarted since, and the leader has seen next to nothing."""
    simulated = service()
    simulated.load("head", "head-1", matches=USELESS, evaluated=GREAT)
    stored = loop(simulated, 20)[-1].state.table
    simulated.restart()
    simulated.steps_per_tick = 20
    begun = loop(simulated, 3, state=control.begin(table=stored))
    assert [of("head", step) for step in begun] == [[0, 0, 0]] * 3


def test_a_drafter_that_comes_back_from_broken_is_known_by_what_was_seen_of_it() -> None:
    """Its figures are those of before, not its evaluation's; the others keep their caps."""
    simulated = service()
    simulated.load("head", "head-1", matches=USELESS, evaluated=GREAT)
    fine = loop(simulated, 15)[-1]
    simulated.drafters[1].state = DrafterState.BROKEN
    broken = loop(simulated, 2, state=fine.state)[-1]
    simulated.drafters[1].state = DrafterState.ACTIVE
    back = loop(simulated, 1, state=broken.state)[0]
    assert back.reason is TableReason.DRAFTER_ADMITTED
    assert (of("head", back), of("suffix", back)) == ([0, 0, 0], of("suffix", broken))


def test_when_speculation_is_switched_on_again_what_was_seen_comes_before_what_is_expected() -> None:
    """A head was promoted while it was off: look-up gets the caps that it had before, the head its own beside them."""
    simulated = service(flat, suffix(share=0.4, match=0.3), untrained())
    known = loop(simulated, 8)[-1]
    off = loop(simulated, 1, state=known.state, mode=SpeculationMode.OFF)[0]
    simulated.load("head", "head-1", matches=GREAT, evaluated=GREAT)
    on = loop(simulated, 1, state=off.state)[0]
    assert (tables(off), on.reason) == ([{}, {}, {}], TableReason.DRAFTER_ADMITTED)
    assert min(cap or 0 for name in ("suffix", "head") for cap in of(name, on)) >= 1
