"""One request by our two engines and by a peer: when tokens came, and what is compared."""

from __future__ import annotations

import pytest

from bench.drafter_streams import Question
from bench.paired_steps import Asked, SteppedEngine
from bench.protocol import Answer, Emission
from bench.recurring_beside_llama_cpp import Asking, asking, ratios
from bench.window import Decoding
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter, FakeRunner

PROMPT = (5, 6, 7, 8)


class Peer:
    """Emits a token each second."""

    def __init__(self):
        self.tasks = []

    def ask(self, task, *, timeout_seconds):
        self.tasks.append(task)
        emissions = tuple(Emission(seconds=float(n), num_tokens=n) for n in range(1, task.max_tokens + 1))
        return Answer(token_ids=((0,) * task.max_tokens,), emissions=(emissions,), seconds=float(task.max_tokens))


def engine(*drafters):
    settings = EngineSettings(
        model_name="m", model_digest="d", max_batch_size=1, max_model_len=64, kv_blocks=16, draft_tokens_max=4,
        speculation_mode=4 if drafters else "off",
    )  # fmt: skip
    made = Engine(runner=FakeRunner(max_model_len=64), settings=settings, drafters=drafters)
    made.prepare()
    return SteppedEngine(made, None)


def test_a_peer_is_asked_for_the_same_prompt_and_as_many_tokens():
    """Ours are equal with and without drafts; the first token is the prompt's and in no figure."""
    peer = Peer()
    asked = Asked(prompt=PROMPT, question=Question(messages=()), seed=1, max_tokens=12)
    drafter = FakeDrafter(name="d", type=DrafterType.NGRAM, draft=lambda _: [9, 9])

    found = asking(engine(drafter), engine(), peer, asked)

    ((task,), num_tokens) = (peer.tasks, found.plain.num_tokens + 1)
    assert (task.prompts, task.max_tokens) == ((PROMPT,), num_tokens)
    assert (found.is_equal, found.speculative.num_tokens) == (True, num_tokens - 1)
    assert found.theirs.tokens_per_second == 1.0


def test_ratios_are_of_tokens_per_second_over_all_requests():
    """A long answer counts for more than a short one."""

    def of(tokens, ours, plain, theirs):
        rates = (Decoding(num_tokens=tokens, seconds=seconds) for seconds in (ours, plain, theirs))
        return Asking(speculative=next(rates), plain=next(rates), theirs=next(rates), is_equal=True)

    to_theirs, to_plain = ratios([of(10, 1.0, 2.0, 4.0), of(90, 9.0, 38.0, 76.0)])

    assert (to_theirs.value, to_plain.value) == (pytest.approx(8.0), pytest.approx(4.0))
    assert to_plain.low < to_plain.value < to_plain.high
