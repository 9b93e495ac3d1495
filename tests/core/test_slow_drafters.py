"""A drafter that takes longer to ask than several steps: once that was noticed, streams run on as without it."""

from __future__ import annotations

import time

import pytest

from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_policy.wire import DrafterCap, DrafterType, PolicyTable, StepCell, TableRow
from core.stepping import Stepping
from fakes import FAKE_VOCAB, FakeDrafter

PROMPT = [5, 6, 7, 8]
UNSAID = FAKE_VOCAB - 1
NUM_TOKENS, NUM_TO_NOTICE = 700, 200


class Clock:
    """The seconds of steps and of drafting as they are stated, whatever they really take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step_seconds(rows):
    return 0.003 + 0.0002 * rows


def plain_text():
    return [*PROMPT, *Stepping(max_model_len=1024).answer("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)]


DRAFTS = {
    "wrong": lambda text, context: [UNSAID] * 4,
    "right": lambda text, context: text[len(context.token_ids) :][:4],
    "silent": lambda text, context: (),
}


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("steps_to_ask", [10, 100])
def test_a_slow_drafter_leaves_its_streams_what_they_have_without_it(monkeypatch, kind, steps_to_ask):
    """Probes of it are as rare as asking it is dear, also those for which it has no proposal."""
    text, clock = plain_text(), Clock()

    def draft(context):
        clock.now += steps_to_ask * step_seconds(1)
        return DRAFTS[kind](text, context)

    cells = [
        StepCell(batch=1, rows=rows, context=256, steps=1, seconds=step_seconds(rows), tokens=1) for rows in (1, 5, 9)
    ]
    drafter = FakeDrafter(name="head", type=DrafterType.HEAD, draft=draft)
    stepping = Stepping(drafters=[drafter], draft_tokens="auto", cells=cells, max_model_len=1024)
    stepping.policy.set_table(
        PolicyTable(revision=1, table=(TableRow(drafters=(DrafterCap(name="head", draft_tokens=4),)),))
    )

    def forward(batch):
        clock.now += step_seconds(batch.token_ids.numel())

    stepping.runner.before_forward = forward
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", clock)
        patch.setattr(time, "process_time", clock)
        stepping.submit("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)
        while len(stepping.tokens("r")) < NUM_TO_NOTICE:
            stepping.stepper.step()
        noticed, num_told = clock.now, len(stepping.tokens("r"))
        stepping.run()
        tokens_per_second = (NUM_TOKENS - num_told) / (clock.now - noticed)

    assert stepping.tokens("r") == text[len(PROMPT) :]
    assert tokens_per_second * step_seconds(1) >= 0.97


def test_a_slow_drafter_keeps_no_other_one_waiting_for_its_probes():
    """Asking it takes 20 steps, another one a tenth: each is probed as often as that allows."""
    policy = PolicyExecutor(
        mode="auto",
        drafter_types={"slow": DrafterType.MODEL, "quick": DrafterType.HEAD},
        draft_tokens_max=8,
        is_usable=lambda _: True,
        times=lambda: (StepTimes([]),),
    )
    steps_to_ask = {"slow": 20.0, "quick": 0.1}
    probes = [
        policy.caps(batch=1, context=100, asking=lambda name, draft_tokens: steps_to_ask[name]).probe
        for _ in range(12_288)
    ]
    num_probes = {name: sum(name in probe for probe in probes if probe) for name in steps_to_ask}

    assert num_probes == {"slow": 3, "quick": 45}
