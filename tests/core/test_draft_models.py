"""A draft model inside the engine. One with the target's own weights is always right, if noise and KV are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_engine.kernels import native
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.speculation.drafters.small_model import SmallModelDrafter
from bowsprit_policy.wire import DrafterCap, DrafterState, PolicyTable, TableRow
from tiny_models import tiny_config

CONFIG = dataclasses.replace(tiny_config(tie_word_embeddings=False), eos_token_ids=())
PROMPTS = [[(7 * i * i + 3 * i + j) % CONFIG.vocab_size for i in range(4 + 9 * j)] for j in range(5)]
SHARED = [(11 * i) % CONFIG.vocab_size for i in range(40)]


class SharpCheckpoint(RandomCheckpoint):
    """Logits that spread as a language model's do, and tell every earlier token."""

    def tensor(self, name):
        return super().tensor(name) * (8.0 if "lm_head" in name or "v_proj" in name or "o_proj" in name else 1.0)


def model(seed=0):
    return NativeRunner(SharpCheckpoint(Path("tiny"), CONFIG, seed=seed), num_threads=None)


def draft_model(*, seed=0, num_blocks=128, chunk_tokens=64):
    return SmallModelDrafter(
        name="small",
        runner=model(seed),
        num_blocks=num_blocks,
        target_vocab_size=CONFIG.vocab_size,
        chunk_tokens=chunk_tokens,
        draw=native.draw,
    )


def answers(served, *, num_tokens=60, **sampling):
    asked = [
        served.submit(f"r{index}", prompt, seed=40 + index, max_tokens=num_tokens, **sampling)
        for index, prompt in enumerate([*PROMPTS, [*SHARED, 1], [*SHARED, 2]])
    ]
    return [answer.wait().token_ids for answer in asked]


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.9}, {"temperature": 1.2, "top_k": 30, "top_p": 0.8}, {"temperature": 1.0, "min_p": 0.3}],
)
@pytest.mark.parametrize("kv_blocks", [128, 16])
def test_the_targets_own_weights_draft_without_a_miss(serve, sampling, kv_blocks):
    """Greedy and sampled, filters included; batched, with prefix hits, and with 16 blocks preempted again and again."""
    plain = answers(serve(runner=model(), speculation_mode="off"), **sampling)
    served = serve(runner=model(), drafters=[draft_model()], speculation_mode=5, kv_blocks=kv_blocks)

    actual = answers(served, **sampling)

    (stats,) = served.engine.stats().drafters
    assert actual == plain
    assert stats.accepted_tokens == stats.drafted_tokens > 5 * len(plain)
    assert (served.engine.stats().preemptions > 0) is (kv_blocks == 16)


def test_another_model_changes_no_token_and_gives_all_its_blocks_back(serve):
    """Clients that leave in the middle included; what it lags by is told while it lives and nothing after."""
    plain = answers(serve(runner=model(), speculation_mode="off"), temperature=0.8)
    small = draft_model(seed=5, num_blocks=20, chunk_tokens=9)
    served = serve(runner=model(), drafters=[small], speculation_mode=3)
    leaver = served.submit("leaver", SHARED, max_tokens=200, on_output=lambda output: served.engine.cancel("leaver"))

    actual = answers(served, temperature=0.8)
    leaver.wait()

    (stats,) = served.engine.stats().drafters
    assert actual == plain
    assert (stats.state, small.kv.blocks.num_free, stats.kv_lag_tokens) == (DrafterState.ACTIVE, 20, 0)


def test_logits_that_are_not_finite_are_told_in_the_drafters_figures(serve):
    """The request is served plainly."""
    small = draft_model()
    healthy = small._runner.forward
    small._runner.forward = lambda batch: dataclasses.replace(
        healthy(batch), logits=healthy(batch).logits * float("nan")
    )
    served = serve(runner=model(), drafters=[small], speculation_mode=3)

    answer = served.submit("a", PROMPTS[1], max_tokens=8).wait()

    (stats,) = served.engine.stats().drafters
    assert (len(answer.token_ids), stats.not_finite, stats.drafted_tokens) == (8, 1, 0)


def test_what_a_draft_model_lags_by_is_told_while_it_is_held_at_0_and_when_it_drafts(serve):
    """By all that the target has computed, then by the last drafted token, which the draft model never ran."""
    served = serve(runner=model(), drafters=[draft_model()])
    prompt, lags = PROMPTS[1], []

    def look(_):
        (stats,) = served.engine.stats().drafters
        lags.append(stats.kv_lag_tokens)
        if len(lags) == 20:
            row = TableRow(drafters=(DrafterCap(name="small", draft_tokens=4),))
            served.engine.set_policy(PolicyTable(revision=1, table=(row,)))

    up_to_its_cap = SpeculationParams(max_draft_tokens=4)
    served.submit("a", prompt, max_tokens=60, speculation=up_to_its_cap, on_output=look).wait()

    (stats,) = served.engine.stats().drafters
    assert lags[:20] == [len(prompt) + index for index in range(20)]
    assert lags[20:] == [1] * 7 + [0]
    assert (stats.drafted_tokens, stats.accepted_tokens) == (32, 32)
