"""A drafter that takes longer to ask than several steps: once that was noticed, streams run on as without it."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_policy.wire import DrafterType
from core.stated_time import StatedTime, step_seconds
from core.stepping import Stepping
from fakes import FAKE_VOCAB

PROMPT = [5, 6, 7, 8]
UNSAID = FAKE_VOCAB - 1
NUM_TOKENS, NUM_TO_NOTICE = 700, 200


def plain_text():
    return [*PROMPT, *Stepping(max_model_len=1024).answer("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)]


DRAFTS = {
    "wrong": lambda text, context: [UNSAID] * 4,
    "right": lambda text, context: text[len(context.token_ids) :][:4],
    "silent": lambda text, context: (),
}


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("steps_to_ask", [10, 100])
def test_a_slow_drafter_leaves_its_streams_what_they_have_without_it(kind, steps_to_ask):
    """Probes of it are as rare as asking it is dear, also those for which it has no proposal."""
    text = plain_text()
    stated = StatedTime(lambda context: DRAFTS[kind](text, context), seconds_to_ask=steps_to_ask * step_seconds(1))
    with stated.running() as stepping:
        stepping.submit("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)
        while len(stepping.tokens("r")) < NUM_TO_NOTICE:
            stepping.stepper.step()
        noticed, num_told = stated.now, len(stepping.tokens("r"))
        stepping.run()
        tokens_per_second = (NUM_TOKENS - num_told) / (stated.now - noticed)

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
