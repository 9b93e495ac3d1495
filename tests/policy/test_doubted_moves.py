"""Moves that lower a drafter: how much must be known of those that they are made for."""

from __future__ import annotations

import pytest

from bowsprit_policy import draft_length
from bowsprit_policy.acceptance import AcceptanceState
from bowsprit_policy.cost import CostState, DraftingCost
from bowsprit_policy.decision import TableReason
from bowsprit_policy.observation import ControlSettings, DrafterSpec
from bowsprit_policy.table import caps_at, composed
from bowsprit_policy.table_decision import DrafterView, DraftLengthInputs, TableDecision
from bowsprit_policy.wire import DrafterState, DrafterType, StepCell

MAX = 12
SUFFIX, HEAD = DrafterType.SUFFIX, DrafterType.HEAD


def seen(name: str, type: DrafterType, *, drafts: float, share: float, match: float) -> AcceptanceState:
    """What counters say after so many turns, in each of which it drafted MAX tokens or none."""
    begun = drafts * share
    matched = tuple(begun * match ** (i + 1) for i in range(MAX))
    return AcceptanceState(
        name=name,
        type=type,
        revision="head-1" if type is HEAD else None,
        opportunities=drafts,
        proposed=begun,
        turns=drafts,
        reached=(drafts, *matched[:-1]),
        matched=matched,
        extendable=(drafts, *[begun] * (MAX - 1)),
        drafted=(begun,) * MAX,
    )


def decided(
    *, head_drafts: float, head_match: float, before: dict[str, int], row_seconds: float = 0.00001
) -> TableDecision:
    """One sequence, rows that are nearly free, look-up that is asked first: what of 8 in 10 turns, seldom right."""
    cells = tuple(
        StepCell(batch=1, rows=rows, context=512, steps=1000, seconds=1000 * (0.010 + row_seconds * rows), tokens=1000)
        for rows in range(1, MAX + 2)
    )
    names = (("suffix", SUFFIX), ("head", HEAD))
    drafting = tuple(DraftingCost(name=name, type=type, seconds=0.0, units=1000.0) for name, type in names)
    return draft_length.decide(
        DraftLengthInputs(
            now=1e6,
            settings=ControlSettings(
                drafters=tuple(DrafterSpec(name=name, type=type) for name, type in names), max_draft_tokens=MAX
            ),
            table=composed([(1, before)]),
            switched_at={},
            drafters=(
                *(DrafterView(name=name, type=type, state=DrafterState.ACTIVE) for name, type in names),
                DrafterView(name="broken", type=DrafterType.NGRAM, state=DrafterState.BROKEN, reason="boom"),
            ),
            acceptance=(
                seen("suffix", SUFFIX, drafts=5000, share=0.8, match=0.26),
                seen("head", HEAD, drafts=head_drafts, share=1.0, match=head_match),
            ),
            cost=CostState(profile=cells, drafting=drafting),
            draft_tokens_max=MAX,
            max_batch_size=1,
            batch_in_use=1,
            drafts=10_000,
        )
    )


@pytest.mark.parametrize(
    ("drafts", "reason"),
    [(45, TableReason.NOT_YET_MEASURED), (400, TableReason.GOODPUT_GAIN)],
)
def test_look_up_is_lowered_for_a_head_of_which_enough_was_seen(drafts: float, reason: TableReason) -> None:
    """The same figures, after forty-five drafts and after four hundred."""
    before = {"suffix": 12, "head": 12}
    outcome = decided(head_drafts=drafts, head_match=0.4, before=before)
    after = before if outcome.table is None else caps_at(outcome.table, 1)
    assert (outcome.reason, after["suffix"]) == (reason, 12 if reason is TableReason.NOT_YET_MEASURED else 0)


def test_what_lowers_nobody_is_found_behind_all_that_does() -> None:
    """The eight best choices give the head every turn; the best of those that leave look-up its own is real."""
    outcome = decided(head_drafts=45, head_match=0.4, before={"suffix": 12, "head": 0})
    (row,) = outcome.rows
    assert all(other.choice.startswith("suffix 0, ") for other in row.alternatives)
    assert outcome.reason is TableReason.GOODPUT_GAIN
    assert caps_at(outcome.table or (), 1)["suffix"] == 12
    assert caps_at(outcome.table or (), 1)["head"] > 0


def test_a_drafter_is_lowered_by_its_own_few_drafts() -> None:
    """Doubted as they are: twenty that matched nothing are enough."""
    outcome = decided(head_drafts=20, head_match=0.0, before={"suffix": 2, "head": 12}, row_seconds=0.0004)
    assert outcome.reason is TableReason.GOODPUT_GAIN
    assert caps_at(outcome.table or (), 1) == {"suffix": 2, "head": 1}


def test_a_drafter_that_breaks_is_no_reason_to_lower_another() -> None:
    """Look-up would go to 0 for the head, which was measured; it does so by a move of its own, with its own reason."""
    outcome = decided(head_drafts=400, head_match=0.4, before={"suffix": 12, "broken": 4, "head": 3})
    assert outcome.reason is TableReason.DRAFTER_BROKEN
    assert outcome.rows[0].alternatives[0].choice.startswith("suffix 0, ")
    assert caps_at(outcome.table or (), 1)["suffix"] == 12
    assert caps_at(outcome.table or (), 1)["head"] >= 3
