"""The caps that are chosen are the best ones, within 2 %, on any curve: the truth is enumerated by other means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_policy import draft_length
from bowsprit_policy.acceptance import AcceptanceState
from bowsprit_policy.cost import CostState, DraftingCost
from bowsprit_policy.table import caps_at
from bowsprit_policy.table_decision import DrafterView, DraftLengthInputs
from bowsprit_policy.wire import DrafterState, DrafterType, StepCell
from policy.simulated_service import SimulatedDrafter, SimulatedService

MAX = 6
WEIGHT = 100_000.0

Curve = Callable[[int, int], float]


def flat(slope: float) -> Curve:
    return lambda batch, rows: 0.004 + slope * rows


def stepped(tile: int, height: float) -> Curve:
    """A tile of rows costs what one row costs; the next tile costs another pass."""
    return lambda batch, rows: 0.004 + height * (-(-rows // tile) - 1) + 0.00002 * rows


def saturating(free: int, slope: float) -> Curve:
    """Flat as far as the processor waits for memory, then every row costs."""
    return lambda batch, rows: 0.004 + slope * max(0, rows - free)


curves = st.one_of(
    st.builds(flat, st.floats(0.00001, 0.003)),
    st.builds(stepped, st.integers(2, 16), st.floats(0.0002, 0.004)),
    st.builds(saturating, st.integers(1, 24), st.floats(0.0001, 0.003)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """One drafter: `share` of steps in which it proposes, match per position."""

    share: float
    matches: tuple[float, ...]


truths = st.builds(
    Truth, share=st.floats(0.05, 1), matches=st.lists(st.floats(0.05, 0.98), min_size=MAX, max_size=MAX).map(tuple)
)


def known(name: str, type: DrafterType, truth: Truth) -> AcceptanceState:
    """What a new engine's counters say after very many drafts of MAX tokens."""
    begun = WEIGHT * truth.share
    reached, matched = [WEIGHT], [begun * truth.matches[0]]
    for match in truth.matches[1:]:
        reached.append(matched[-1])
        matched.append(matched[-1] * match)
    return AcceptanceState(
        name=name,
        type=type,
        revision=None,
        opportunities=WEIGHT,
        proposed=begun,
        turns=WEIGHT,
        reached=tuple(reached),
        matched=tuple(matched),
        extendable=(WEIGHT, *[begun] * (MAX - 1)),
        drafted=(begun,) * MAX,
    )


def free(name: str, type: DrafterType) -> DraftingCost:
    return DraftingCost(name=name, type=type, seconds=0.0, units=1000.0)


@settings(max_examples=40, deadline=None)
@given(curves, truths, truths, st.sampled_from([1, 2, 3, 6]))
def test_on_any_curve_the_chosen_caps_are_within_2_percent_of_the_best(
    curve: Curve, look_up: Truth, head: Truth, batch: int
) -> None:
    """Flat, saturating or with steps at any place; figures and curve are known, so only the choice can err."""
    service = SimulatedService(
        drafters=[
            SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=look_up.share, matches=look_up.matches),
            SimulatedDrafter(name="head", type=DrafterType.HEAD, share=head.share, matches=head.matches),
        ],
        step_seconds=curve,
        max_draft_tokens=MAX,
        max_batch_size=batch,
    )
    cells = tuple(
        StepCell(batch=batch, rows=rows, context=512, steps=1, seconds=curve(batch, rows), tokens=1)
        for rows in range(batch, batch * (1 + MAX) + 1)
    )
    outcome = draft_length.decide(
        DraftLengthInputs(
            now=0.0,
            settings=service.settings(),
            table=None,
            switched_at={},
            drafters=tuple(DrafterView(name=d.name, type=d.type, state=DrafterState.ACTIVE) for d in service.drafters),
            acceptance=(known("ngram", DrafterType.NGRAM, look_up), known("head", DrafterType.HEAD, head)),
            cost=CostState(profile=cells, drafting=(free("ngram", DrafterType.NGRAM), free("head", DrafterType.HEAD))),
            draft_tokens_max=MAX,
            max_batch_size=batch,
            batch_in_use=batch,
            drafts=10_000,
        )
    )
    assert outcome.table is not None
    chosen = service.true_goodput(caps_at(outcome.table, batch), batch)
    assert chosen >= 0.98 * service.best_goodput(batch)
