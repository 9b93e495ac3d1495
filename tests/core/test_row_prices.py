"""What a drafted row costs is told to the pool, of the batch's own measured steps."""

from __future__ import annotations

import pytest

from bowsprit_engine.core.step_drafts import StepDrafter
from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.replay import Recording, Replay
from bowsprit_policy.wire import DrafterType, StepCell
from core.stepping import Stepping
from fakes import FakeDrafter


def look_up():
    return FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda _: ())


def told_of(pool, monkeypatch):
    """The row shares that the pool is told from now on."""
    told, draft = [], pool.draft

    def listening(*args, row_share=0.0, **kwargs):
        told.append(row_share)
        return draft(*args, row_share=row_share, **kwargs)

    monkeypatch.setattr(pool, "draft", listening)
    return told


@pytest.mark.parametrize(("mode", "share"), [("auto", 0.05), (4, 0.0)])
def test_the_pool_is_told_what_a_row_costs_where_windows_decide(monkeypatch, mode, share):
    """One that is drafted up to its cap in any case has its rows in any case."""
    drafter = look_up()
    stepping = Stepping(drafters=[drafter])
    cells = [StepCell(batch=1, rows=1 + n, context=128, steps=10, seconds=10 + 0.5 * n, tokens=10) for n in range(9)]
    policy = PolicyExecutor(
        mode=mode,
        drafter_types={"counts": drafter.type},
        draft_tokens_max=4,
        is_usable=lambda _: True,
        times=lambda: (StepTimes(cells), StepTimes(())),
    )
    stepping.submit("r", [1, 2, 3], max_tokens=20)
    for _ in range(3):
        stepping.stepper.step()
    told = told_of(stepping.pool, monkeypatch)
    StepDrafter(scheduler=stepping.scheduler, pool=stepping.pool, policy=policy, max_model_len=256).draft(
        stepping.scheduler.schedule()
    )

    assert told == [pytest.approx(share)]


def test_a_replay_tells_the_pool_what_a_row_costs_by_its_own_step_times(monkeypatch):
    """As serving does; nothing without step times."""
    recordings = [Recording(request_id="r", prompt_token_ids=(1, 2), token_ids=(3, 4, 5))]
    told = []
    for step_seconds in (lambda batch, rows: 1.0 + 0.1 * (rows - batch), None):
        pool = Stepping(drafters=[look_up()]).pool
        heard = told_of(pool, monkeypatch)
        list(Replay(pool, caps={"counts": 4}, step_seconds=step_seconds).steps(recordings))
        told.append(heard)

    assert told == [[pytest.approx(0.1)] * 2, [0.0] * 2]
