"""The table, executed: rows by batch, lowering at once, restoring, probing at a bounded cost."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_engine.errors import CallerError, StalePolicyError
from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.lowering import Outcome
from bowsprit_engine.speculation.policy import PolicyExecutor, StepCaps
from bowsprit_engine.speculation.table import narrowed
from bowsprit_policy.wire import DrafterCap, DrafterType, PolicyTable, StepCell, TableRow

TYPES = {"ngram": DrafterType.NGRAM, "head": DrafterType.HEAD}


def cell(batch, rows, milliseconds):
    return StepCell(batch=batch, rows=rows, context=256, steps=1, seconds=milliseconds / 1000, tokens=batch)


def times(slowdown_of_five_rows):
    return StepTimes(
        [cell(1, 1, 10.0), cell(1, 5, 10.0 * slowdown_of_five_rows), cell(1, 9, 20.0 * slowdown_of_five_rows)]
    )


def executor(*, mode="auto", slowdown=2.0, usable=("ngram", "head"), table=None):
    policy = PolicyExecutor(
        mode=mode,
        drafter_types=TYPES,
        draft_tokens_max=8,
        is_usable=lambda name: name in usable,
        times=lambda: (StepTimes([]), times(slowdown)),
    )
    if table is not None:
        policy.set_table(PolicyTable(revision=1, table=table))
    return policy


def row(max_batch_size, **caps):
    return TableRow(
        max_batch_size=max_batch_size,
        drafters=tuple(DrafterCap(name=name, draft_tokens=cap) for name, cap in caps.items()),
    )


def run(policy, *, steps, accepted, batch=1):
    """Steps in which every drafter that is asked drafts its cap and `accepted` of it matches."""
    seen = []
    for _ in range(steps):
        caps = policy.caps(batch=batch, context=200)
        seen.append(caps)
        asked = caps.probe if caps.probe is not None else caps.by_drafter
        name, cap = next(iter(asked.items()), (None, 0))
        outcomes = [Outcome(drafter=name, num_drafted=cap, num_accepted=min(accepted, cap))] if cap else []
        policy.observe(outcomes, batch=batch, context=200)
    return seen


@pytest.mark.parametrize(
    ("batch", "caps"),
    [
        (1, {"ngram": 4, "head": 5}),
        (2, {"ngram": 4, "head": 5}),
        (3, {"ngram": 2}),
        (8, {"ngram": 2}),
        (9, {"head": 0}),
    ],
)
def test_the_row_of_the_current_batch_holds(batch, caps):
    """Rows are upper bounds in sequences; the last is unbounded."""
    policy = executor(table=(row(2, ngram=4, head=5), row(8, ngram=2), row(None, head=0)))

    assert policy.caps(batch=batch, context=100) == StepCaps(by_drafter=caps, watch=8, has_windows=True)


def test_caps_stay_within_the_start_up_capacity_and_unknown_drafters_are_left_out():
    """A table made for a newer engine still works as far as this one can."""
    policy = executor(table=(row(None, ngram=99, suffix=3),))

    assert policy.caps(batch=1, context=100).by_drafter == {"ngram": 8}


def test_before_any_push_only_the_untrained_drafter_drafts_and_less_as_the_batch_grows():
    """The built-in table needs no operator."""
    policy = executor()

    assert [policy.caps(batch=b, context=9).by_drafter for b in (1, 4, 16)] == [
        {"ngram": 8},
        {"ngram": 4},
        {"ngram": 0},
    ]


@pytest.mark.parametrize(("mode", "draft_tokens"), [("off", 0), (3, 3), (0, 0)])
def test_off_and_fixed_report_the_caps_that_hold_and_not_the_tables(mode, draft_tokens):
    """Whoever reads status or metrics sees what steps do; the revision is acknowledged all the same."""
    policy = executor(mode=mode, table=(row(None, ngram=8),))

    status = policy.status()

    assert (status.revision, status.table) == (1, (row(None, ngram=draft_tokens, head=draft_tokens),))


@pytest.mark.parametrize(("mode", "caps"), [("off", {}), (3, {"ngram": 3, "head": 3}), (0, {"ngram": 0, "head": 0})])
def test_off_and_fixed_take_no_table(mode, caps):
    """A fixed number holds at every batch, without probes."""
    policy = executor(mode=mode, table=(row(None, ngram=7),))

    assert [policy.caps(batch=1, context=9) for _ in range(500)] == [StepCaps(by_drafter=caps)] * 500


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), "the last row of a policy table must be unbounded"),
        ((row(4, ngram=1),), "the last row of a policy table must be unbounded"),
        ((row(4), row(4), row(None)), r"rows must ascend in maxBatchSize, these are \[4, 4, None\]"),
        ((row(None), row(None)), r"rows must ascend in maxBatchSize, these are \[None, None\]"),
        (
            (TableRow(drafters=(DrafterCap(name="ngram", draft_tokens=2), DrafterCap(name="ngram", draft_tokens=5))),),
            r"names each drafter once, this one \['ngram', 'ngram'\]",
        ),
    ],
)
def test_a_malformed_table_is_refused(table, message):
    """And the one in force stays."""
    policy = executor()

    with pytest.raises(CallerError, match=message):
        policy.set_table(PolicyTable(revision=9, table=table))
    assert policy.revision == 0


@pytest.mark.parametrize(
    ("request_limits", "room", "caps"),
    [
        (SpeculationParams(), 9, {"ngram": 4, "head": 6}),
        (SpeculationParams(), 5, {"ngram": 4, "head": 5}),
        (SpeculationParams(), 0, {}),
        (SpeculationParams(enabled=False), 9, {}),
        (SpeculationParams(max_draft_tokens=2), 9, {"ngram": 2, "head": 2}),
        (SpeculationParams(max_draft_tokens=0), 9, {}),
        (SpeculationParams(drafter="head"), 9, {"head": 6}),
    ],
)
def test_a_request_only_narrows(request_limits, room, caps):
    """Its own wishes and its length limits cut the caps, nothing raises them."""
    assert narrowed({"ngram": 4, "head": 6, "idle": 0}, request_limits, room=room) == caps


def test_a_drafter_that_loses_is_lowered_at_once_and_says_why():
    """2 tokens per step at 3 times the time: K goes to 0 within 48 steps, below the table."""
    policy = executor(slowdown=3.0, table=(row(None, ngram=4),))

    seen = run(policy, steps=60, accepted=1)

    assert seen[0].by_drafter == {"ngram": 4}
    assert [caps.by_drafter for caps in seen[48:]] == [{}] * 12
    (lowered,) = policy.status().lowered
    assert (lowered.name, lowered.draft_tokens, lowered.batches) == ("ngram", 0, (1,))
    assert lowered.reason == "LowAcceptance"
    assert lowered.message == "batch 1: 2.00 tokens per step in 3.00 times the time of a step without drafts"


def test_a_drafter_that_pays_is_left_alone():
    """3 tokens per step at twice the time: nothing is lowered."""
    policy = executor(slowdown=2.0, table=(row(None, ngram=4),))

    run(policy, steps=400, accepted=2)

    assert policy.status().lowered == ()


def test_lowering_holds_for_the_batch_that_loses_only():
    """A batch bucket without evidence keeps the table."""
    policy = executor(slowdown=3.0, table=(row(None, ngram=4),))
    run(policy, steps=60, accepted=1)

    assert policy.caps(batch=2, context=200).by_drafter == {"ngram": 4}


def test_a_lowered_drafter_is_probed_and_restored_when_it_pays_again():
    """Off is never for good: rare probes of one sequence find that the workload has changed."""
    policy = executor(slowdown=3.0, usable=("ngram",), table=(row(None, ngram=4),))
    run(policy, steps=60, accepted=1)

    seen = run(policy, steps=6000, accepted=4)

    probes = [index for index, caps in enumerate(seen) if caps.probe is not None and not caps.by_drafter]
    assert len(probes) == 4
    assert min(b - a for a, b in pairwise(probes)) >= (3.0 - 1) / 0.005
    assert policy.status().lowered == ()
    assert seen[-1].by_drafter == {"ngram": 4} or seen[-1].is_baseline


def test_the_baseline_stays_measured_at_under_half_a_percent():
    """Whole steps at K=0 come at intervals that follow from what they cost: here a step loses 150 % of its tokens."""
    policy = executor(slowdown=2.0, usable=(), table=(row(None, ngram=4),))

    seen = run(policy, steps=6000, accepted=4)

    num_probes = sum(caps.is_baseline for caps in seen)
    gain = 5 / 2.0 - 1
    assert num_probes >= 15
    assert num_probes * gain / 6000 <= 0.005


def test_nothing_is_probed_at_batch_zero_and_without_capacity():
    """A step of prompts only has no caps at all."""
    assert executor().caps(batch=0, context=0.0) == StepCaps()


def test_a_new_revision_of_a_drafter_starts_afresh():
    """What the old revision did is no evidence against the new one."""
    policy = executor(slowdown=3.0, table=(row(None, ngram=4),))
    run(policy, steps=60, accepted=1)

    policy.begin_revision("ngram")

    assert policy.status().lowered == ()
    assert policy.caps(batch=1, context=200).by_drafter == {"ngram": 4}


def test_every_usable_drafter_is_probed_in_turn():
    """The head, which the table holds at 0, gets fresh figures too; a Broken one isn't asked."""
    policy = executor(slowdown=2.0, table=(row(None, ngram=4),))
    seen = run(policy, steps=3000, accepted=4)

    assert {name for caps in seen if caps.probe for name in caps.probe} == {"ngram", "head"}

    policy = executor(slowdown=2.0, usable=("ngram",), table=(row(None, ngram=4),))
    seen = run(policy, steps=3000, accepted=4)

    assert {name for caps in seen if caps.probe for name in caps.probe} == {"ngram"}


def test_look_up_that_is_not_held_at_0_is_probed_a_quarter_as_often_as_a_head():
    """All that it drafts is scored on the emitted text anyway."""
    times = {}
    for name in ("ngram", "head"):
        policy = executor(slowdown=2.0, usable=(name,), table=(row(None, ngram=4),))
        seen = run(policy, steps=8000, accepted=4)
        times[name] = [index for index, caps in enumerate(seen) if caps.probe is not None]

    gaps = {name: times[name][2] - times[name][1] for name in times}
    assert gaps["ngram"] == 4 * gaps["head"]


def test_a_probe_without_a_proposal_is_tried_again_soon():
    """The n-gram drafter had no match just then: that cost nothing and told nothing."""
    policy = executor(usable=("ngram",), table=(row(None, ngram=0),))

    probes = []
    for step in range(300):
        if policy.caps(batch=1, context=200).probe is not None:
            probes.append(step)
        policy.observe([], batch=1, context=200)

    assert probes[:3] == [255, 271, 287]


def test_a_lowered_drafter_is_restored_by_what_it_would_have_got():
    """Without a probe: its drafts are scored on the emitted text while it is held at 0, and 41 of them are enough."""
    policy = executor(slowdown=2.0)
    run(policy, steps=64, accepted=0)
    lowered = [entry.name for entry in policy.lowered]
    would_match = [Outcome(drafter="ngram", num_drafted=4, num_accepted=4)]
    for _ in range(31):
        policy.observe_watched(would_match, batch=1, context=200)
    held = [entry.name for entry in policy.lowered]
    for _ in range(10):
        policy.observe_watched(would_match, batch=1, context=200)

    assert (lowered, held, policy.lowered) == (["ngram"], ["ngram"], ())


def test_an_older_table_is_refused_with_both_revisions():
    """A leader that lost its lease must not undo what the next one pushed."""
    policy = executor(table=(row(None, ngram=4),))
    policy.set_table(PolicyTable(revision=3, table=(row(None, ngram=2),)))

    with pytest.raises(StalePolicyError) as refused:
        policy.set_table(PolicyTable(revision=2, table=(row(None, ngram=8),)))

    assert (refused.value.stored, refused.value.offered) == (3, 2)
    assert policy.status().table == (row(None, ngram=2),)


def test_what_a_probe_got_beyond_the_tables_cap_saves_nobody():
    """8 of 8 matched, but the table lets one be drafted: 2 tokens at 3 times the time."""
    policy = executor(slowdown=9.0, table=(row(None, ngram=1),))
    for _ in range(64):
        policy.observe([Outcome(drafter="ngram", num_drafted=8, num_accepted=8)], batch=1, context=200)

    assert [entry.name for entry in policy.lowered] == ["ngram"]
