"""The prefix cache: what is shared, with whom, for how long, and that it changes nothing but the work."""

from __future__ import annotations

import pytest

from bowsprit_engine.core.kv_cache import BLOCK_SIZE, BlockAllocator
from bowsprit_engine.core.prefix_cache import PrefixCache
from bowsprit_engine.core.request import FinishReason, Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from core.stepping import Stepping
from fakes import FakeDrafter

PROMPT = [(7 * i + i * i) % 59 for i in range(70)]


def counting_rows(stepping):
    """Rows of every forward pass from now on."""
    rows = []
    stepping.runner.before_forward = lambda batch: rows.append(batch.token_ids.numel())
    return rows


def begun(prompt):
    """A sequence of which nothing is computed."""
    request = Request(
        request_id="r",
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(seed=0),
        speculation=SpeculationParams(),
        on_output=lambda _: None,
    )
    return LiveSequence.begin(request)


def test_a_second_request_computes_only_what_is_new():
    """Its full blocks are taken over, whoever computed them has ended; the answer is the same."""
    stepping = Stepping(prefill_chunk=256)
    first = stepping.answer("first", PROMPT, max_tokens=8)
    rows = counting_rows(stepping)

    second = stepping.answer("second", PROMPT, max_tokens=8)

    assert (second, stepping.cached("first"), stepping.cached("second")) == (first, 0, 64)
    assert rows == [6] + [1] * 7


@pytest.mark.parametrize(("num_tokens", "cached"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32)])
def test_the_last_token_of_a_prompt_is_always_computed(num_tokens, cached):
    """Its row gives the first token; so a prompt of whole blocks computes its last one."""
    stepping = Stepping()
    stepping.answer("first", PROMPT[:num_tokens], max_tokens=1)

    stepping.answer("second", PROMPT[:num_tokens], max_tokens=1)

    assert cached == stepping.cached("second")


def test_the_next_turn_of_a_chat_finds_the_answer_too():
    """Emitted tokens are kept as the prompt's are, all but the last, which was never computed."""
    stepping = Stepping()
    answer = stepping.answer("turn 1", PROMPT, max_tokens=30)

    stepping.answer("turn 2", [*PROMPT, *answer, 5, 6, 7], max_tokens=4)

    assert stepping.cached("turn 2") == (len(PROMPT) + len(answer) - 1) // BLOCK_SIZE * BLOCK_SIZE


def test_only_what_is_equal_from_the_beginning_is_shared():
    """A block with the same tokens after another beginning is another block."""
    stepping = Stepping()
    stepping.answer("first", PROMPT, max_tokens=1)

    stepping.answer("other beginning", [1, *PROMPT[1:]], max_tokens=1)
    stepping.answer("other from the third block on", [*PROMPT[:40], 1, *PROMPT[41:]], max_tokens=1)

    assert (stepping.cached("other beginning"), stepping.cached("other from the third block on")) == (0, 32)


def test_tenants_share_nothing():
    """Else the time to the first token would tell one tenant what another has asked."""
    stepping = Stepping()
    stepping.answer("a's", PROMPT, max_tokens=1, tenant="a")

    stepping.answer("b's", PROMPT, max_tokens=1, tenant="b")
    stepping.answer("nobody's", PROMPT, max_tokens=1)
    stepping.answer("a's again", PROMPT, max_tokens=1, tenant="a")

    assert [stepping.cached(name) for name in ("b's", "nobody's", "a's again")] == [0, 0, 64]


def test_models_share_nothing():
    """Over the same blocks: what one model has computed is found under its own digest alone."""
    blocks = BlockAllocator(8)
    mine, others = (PrefixCache(blocks, model_digest=digest, is_on=True) for digest in ("mine", "another's"))
    computed, same, foreign = (begun(PROMPT[:33]) for _ in range(3))
    computed.block_ids, computed.num_computed = blocks.allocate(2), 32
    mine.keep(computed)

    mine.begin(same)
    others.begin(foreign)

    assert (same.num_cached_tokens, foreign.num_cached_tokens) == (32, 0)


def test_turned_off_it_finds_nothing_and_counts_nothing_found():
    """Every prompt is computed."""
    stepping = Stepping(has_prefix_cache=False)
    first = stepping.answer("first", PROMPT, max_tokens=4)

    assert stepping.answer("second", PROMPT, max_tokens=4) == first
    assert (stepping.cached("second"), stepping.scheduler.prefixes.num_hit) == (0, 0)
    assert stepping.scheduler.blocks.num_kept == 0


def test_equal_prompts_that_arrive_together_are_computed_once():
    """Those behind wait for the step in which the first one's chunk is computed, and take its blocks."""
    stepping = Stepping(prefill_chunk=256)
    rows = counting_rows(stepping)
    for index in range(3):
        stepping.submit(f"choice {index}", PROMPT, max_tokens=3)

    stepping.run()

    assert rows == [70, 1 + 6 + 6, 3, 2]
    assert [stepping.tokens(f"choice {index}") for index in (1, 2)] == [stepping.tokens("choice 0")] * 2
    assert (stepping.scheduler.prefixes.num_queried, stepping.scheduler.prefixes.num_hit) == (210, 128)


def test_a_prompt_overtakes_what_its_neighbour_has_computed_meanwhile():
    """Admitted before there was anything to share, it still skips what is there when its turn comes."""
    stepping = Stepping(prefill_chunk=32)
    rows = counting_rows(stepping)
    stepping.submit("first", PROMPT, max_tokens=1)
    stepping.submit("same", PROMPT, max_tokens=1)

    stepping.run()

    assert rows == [32, 32, 6 + 6]
    assert stepping.tokens("first") == stepping.tokens("same")


def test_a_preempted_sequence_resumes_through_what_is_kept_of_it():
    """Only blocks that were needed meanwhile are computed again, and that isn't counted as a hit."""
    stepping = Stepping(num_blocks=9, prefill_chunk=256)
    stepping.submit("old", PROMPT[:40], max_tokens=60)
    stepping.submit("young", [3, *PROMPT[1:60]], max_tokens=30)
    rows = counting_rows(stepping)

    stepping.run()

    alone = Stepping(num_blocks=64)
    assert stepping.tokens("old") == alone.answer("old", PROMPT[:40], max_tokens=60)
    assert stepping.tokens("young") == alone.answer("young", [3, *PROMPT[1:60]], max_tokens=30)
    assert stepping.counters.snapshot().preemptions > 0
    recomputed = sum(rows) - (40 + 60 + 60 - 1 + 30 - 1)
    assert 0 < recomputed < 60
    assert stepping.scheduler.prefixes.num_hit == 0


def test_what_a_failed_sequence_computed_is_trusted_by_nobody():
    """Its logits were not finite: the next one with the same prompt computes all of it."""
    stepping = Stepping()
    good = stepping.answer("good", PROMPT, max_tokens=20)
    stepping.runner.poisoned = {tuple(PROMPT + good[:9])}
    stepping.answer("poisoned", PROMPT, max_tokens=20)
    stepping.runner.poisoned = set()

    healed = stepping.answer("healed", PROMPT, max_tokens=20)

    assert stepping.outputs["poisoned"][-1].finish_reason == FinishReason.ERROR
    assert (stepping.cached("poisoned"), stepping.cached("healed"), healed) == (64, 0, good)


def test_a_sharer_that_was_admitted_meanwhile_spreads_nothing_that_failed():
    """It took the blocks in the very step in which their owner failed, and doesn't label them again."""
    stepping = Stepping()
    good = stepping.answer("good", PROMPT, max_tokens=20)
    stepping.runner.poisoned = {tuple(PROMPT + good[:9])}
    stepping.submit("poisoned", PROMPT, max_tokens=20)
    for _ in range(9):
        stepping.stepper.step()
    stepping.submit("sharer", PROMPT, max_tokens=2)
    stepping.run()
    stepping.runner.poisoned = set()

    healed = stepping.answer("healed", PROMPT, max_tokens=20)

    assert stepping.outputs["poisoned"][-1].finish_reason == FinishReason.ERROR
    assert (stepping.cached("sharer"), stepping.cached("healed"), healed) == (64, 0, good)


def test_a_step_that_raises_leaves_nothing_of_its_sequences_to_share():
    """What others had computed before stays."""
    stepping = Stepping(prefill_chunk=32)
    stepping.answer("before", [4] * 40, max_tokens=1)
    stepping.submit("failed", PROMPT, max_tokens=5)
    stepping.stepper.step()
    stepping.stepper.sequences.fail_running("the step failed")

    stepping.answer("same", PROMPT, max_tokens=1)
    stepping.answer("other", [4] * 40, max_tokens=1)

    assert (stepping.cached("same"), stepping.cached("other")) == (0, 32)


def test_a_cancelled_prompt_leaves_what_it_had_computed():
    """Its blocks are free at once, and found until they are needed."""
    stepping = Stepping(prefill_chunk=32)
    stepping.submit("cancelled", PROMPT, max_tokens=5)
    stepping.stepper.step()
    stepping.stepper.sequences.cancel("cancelled")
    assert stepping.scheduler.blocks.num_free == stepping.scheduler.blocks.num_blocks

    stepping.answer("same", PROMPT, max_tokens=1)

    assert stepping.cached("same") == 32


def test_a_drafter_starts_from_the_last_rows_hidden_state_after_a_hit_too():
    """Target and drafter stay in step: the first draft sees the state of the prompt's last row, as without a hit."""
    seen = []

    def draft(context):
        seen.append((context.request_id, len(context.token_ids), context.hidden[0].item()))
        return [1]

    stepping = Stepping(drafters=[FakeDrafter(name="head", draft=draft)], draft_tokens=2)
    for name in ("miss", "hit"):
        stepping.answer(name, PROMPT, max_tokens=4)

    assert stepping.cached("hit") == 64
    first = {name: next(entry for entry in seen if entry[0] == name)[1:] for name in ("miss", "hit")}
    assert first == {"miss": (71, 69.0), "hit": (71, 69.0)}


def test_kept_blocks_go_when_empty_ones_have_run_out_the_longest_unused_first():
    """And of one sequence its end before its beginning."""
    blocks = BlockAllocator(6)
    old, new = blocks.allocate(2), blocks.allocate(2)
    for block, label in zip([*old, *new], (b"old 0", b"old 1", b"new 0", b"new 1"), strict=True):
        blocks.label(block, label)
    blocks.release(old)
    blocks.release(new)

    def found():
        return [label for label in (b"old 0", b"old 1", b"new 0", b"new 1") if blocks.find(label) is not None]

    left = []
    blocks.allocate(2)
    for _ in range(4):
        left.append(found())
        blocks.allocate(1)

    assert left == [
        [b"old 0", b"old 1", b"new 0", b"new 1"],
        [b"old 0", b"new 0", b"new 1"],
        [b"new 0", b"new 1"],
        [b"new 0"],
    ]
    assert (found(), blocks.num_free) == ([], 0)


def test_a_block_that_is_used_again_is_kept_longer():
    """Sharing and releasing counts as use."""
    blocks = BlockAllocator(2)
    first, second = blocks.allocate(2)
    blocks.label(first, b"first")
    blocks.label(second, b"second")
    blocks.release([first])
    blocks.release([second])
    blocks.share(first)
    blocks.release([first])

    blocks.allocate(1)

    assert (blocks.find(b"first"), blocks.find(b"second")) == (first, None)
