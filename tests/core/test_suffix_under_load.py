"""Look-up in recent answers in an engine that runs: what it keeps of many requests, each another tenant's."""

from __future__ import annotations

import gc
import random

import pytest

from bowsprit_engine.speculation.drafters import suffix_in_cpp, suffix_in_python
from bowsprit_engine.speculation.drafters.answers import Answer
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_policy.wire import DrafterState
from fakes import FAKE_VOCAB

KEPT_TOKENS = 400
FEWEST_TOKENS = 9  # of an answer: those of the prompt before it, and one


def num_alive(*kinds):
    gc.collect()
    return sum(type(thing) in kinds for thing in gc.get_objects())


@pytest.mark.parametrize("look_up", [suffix_in_cpp.SuffixInCpp, suffix_in_python.SuffixInPython])
def test_what_is_kept_of_many_requests_is_bounded(serve, look_up):
    """300 of them, a third of which are cancelled at once or after a token: nothing of a sequence, few answers."""
    followed = (suffix_in_cpp.Followed, suffix_in_python.Followed)
    before = num_alive(*followed), num_alive(Answer)
    dice = random.Random(5)
    drafter = SuffixDrafter(name="suffix", look_up=look_up, kept_tokens=KEPT_TOKENS)
    served = serve(drafters=[drafter], speculation_mode=3, max_waiting=400)

    def submit(number):
        name = f"r{number}"
        prompt = [dice.randrange(FAKE_VOCAB) for _ in range(dice.randrange(8, 40))]
        leaves = (lambda _: served.engine.cancel(name)) if number % 6 == 1 else (lambda _: None)
        answer = served.submit(name, prompt, tenant=name, max_tokens=dice.randrange(1, 30), on_output=leaves)
        if number % 6 == 0:
            served.engine.cancel(name)
        return answer

    answers = [submit(number) for number in range(300)]
    for answer in answers:
        answer.wait()

    (stats,) = served.engine.drafters()
    assert (stats.state, stats.drafted_tokens > 0) == (DrafterState.ACTIVE, True)
    assert num_alive(*followed) <= before[0]
    assert num_alive(Answer) <= before[1] + KEPT_TOKENS // FEWEST_TOKENS + 1
