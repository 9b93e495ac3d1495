"""The scheduler over random lives of sequences: blocks, order and progress."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.core.kv_cache import BLOCK_SIZE, num_blocks_for
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.sequence import LiveSequence

NUM_BLOCKS = 12
LONGEST = NUM_BLOCKS * 16
MAX_BATCH = 4
CHUNK = 24


def sequence_of(name: str, num_prompt: int, *, first: int = 1) -> LiveSequence:
    """Sequences with the same first token have the same prompt as far as both reach."""
    return LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=(first,) + (1,) * (num_prompt - 1),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
        )
    )


def run_plan(scheduler, plan, drafts, accepted):
    """Do what the step does to sequences, with made-up acceptance. Whatever is written has one owner and no label."""
    for chunk in plan.prefills:
        completes = chunk.completes
        assert_own(scheduler, chunk.sequence, chunk.num_tokens)
        chunk.sequence.num_computed += chunk.num_tokens
        if completes:
            chunk.sequence.token_ids.append(2)
    for sequence in plan.decodes:
        room = max(0, LONGEST - len(sequence.token_ids) - 1)
        granted = scheduler.reserve_drafts(sequence, min(drafts, room))
        assert_own(scheduler, sequence, granted + 1)
        sequence.token_ids += [2] * (min(accepted, granted) + 1)
        sequence.num_computed = len(sequence.token_ids) - 1
        scheduler.trim(sequence)
    for sequence in scheduler.running:
        if len(sequence.token_ids) >= LONGEST:
            scheduler.remove(sequence)


def assert_own(scheduler, sequence, num_rows):
    """The blocks of its next rows are its own: nobody reads what they write."""
    begin = sequence.num_computed // BLOCK_SIZE
    written = sequence.block_ids[begin : num_blocks_for(sequence.num_computed + num_rows)]
    assert [scheduler.blocks.num_owners(block) for block in written] == [1] * len(written)
    found = {scheduler.blocks.find(label) for label in sequence.block_labels}
    assert found.isdisjoint(written)


def assert_sound(scheduler):
    owners = Counter(block for sequence in scheduler.running for block in sequence.block_ids)
    assert {block: scheduler.blocks.num_owners(block) for block in range(NUM_BLOCKS)} == {
        block: owners[block] for block in range(NUM_BLOCKS)
    }
    assert len(owners) + scheduler.blocks.num_free == NUM_BLOCKS
    assert [block for sequence in scheduler.waiting for block in sequence.block_ids] == []
    assert scheduler.num_running <= MAX_BATCH


events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, LONGEST - 1), st.sampled_from([1, 3])),
        st.tuples(st.just("step"), st.integers(0, 40), st.integers(0, 6)),
        st.tuples(st.just("cancel"), st.integers(0, 10)),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=120, deadline=None)
@given(events)
def test_no_block_is_lost_or_written_while_shared(lives):
    """Whatever arrives, steps, drafts, is preempted or cancelled: a block's owners are the sequences that list it."""
    scheduler = Scheduler(num_blocks=NUM_BLOCKS, max_batch_size=MAX_BATCH, prefill_chunk=CHUNK)
    arrived = []
    for event in lives:
        match event:
            case ("arrive", num_prompt, first):
                arrived.append(sequence_of(f"s{len(arrived)}", num_prompt, first=first))
                scheduler.add(arrived[-1])
            case ("cancel", index) if index < len(arrived):
                scheduler.remove(arrived[index])
                assert arrived[index].block_ids == []
            case ("step", drafts, accepted):
                plan = scheduler.schedule()
                assert sum(chunk.num_tokens for chunk in plan.prefills) <= CHUNK
                assert [s for s in plan.decodes if len(s.block_ids) < num_blocks_for(len(s.token_ids))] == []
                run_plan(scheduler, plan, drafts, accepted)
        assert_sound(scheduler)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, LONGEST - 1), min_size=1, max_size=8), st.integers(0, 6))
def test_everything_that_arrived_ends(prompts, accepted):
    """Under any pressure the oldest always advances, so the queue empties in the order of arrival's own pace."""
    scheduler = Scheduler(num_blocks=NUM_BLOCKS, max_batch_size=MAX_BATCH, prefill_chunk=CHUNK)
    for index, num_prompt in enumerate(prompts):
        scheduler.add(sequence_of(f"s{index}", num_prompt))
    for _ in range(len(prompts) * LONGEST * 3):
        if not scheduler.has_work:
            break
        plan = scheduler.schedule()
        assert not plan.is_empty
        run_plan(scheduler, plan, 6, accepted)
        assert_sound(scheduler)

    assert not scheduler.has_work
    assert scheduler.blocks.num_free == NUM_BLOCKS


def test_the_youngest_is_preempted_and_returns_first():
    """Blocks run out: the last arrival goes back to the head of the queue with its tokens kept."""
    scheduler = Scheduler(num_blocks=4, max_batch_size=4, prefill_chunk=64)
    old, young, waiting = sequence_of("old", 30), sequence_of("young", 15), sequence_of("waiting", 1)
    for sequence in (old, young, waiting):
        scheduler.add(sequence)
    for _ in range(3):
        plan = scheduler.schedule()
        assert plan.preempted == ()  # who is let in has a block to go on with
        run_plan(scheduler, plan, 0, 0)
    assert (
        tuple(s.request_id for s in scheduler.running),
        tuple(s.request_id for s in scheduler.waiting),
    ) == (("old", "young"), ("waiting",))
    young_tokens = list(young.token_ids)

    scheduler.blocks.allocate(scheduler.blocks.num_free)
    old.token_ids += [2] * (len(old.block_ids) * BLOCK_SIZE + 1 - len(old.token_ids))
    old.num_computed = len(old.token_ids) - 1
    plan = scheduler.schedule()

    assert (young,) == plan.preempted
    assert (young, waiting) == scheduler.waiting
    assert (young_tokens, [], 0) == (young.token_ids, young.block_ids, young.num_computed)


def test_a_long_prompt_is_cut_and_decoding_goes_on_beside_it():
    """Each step runs every decoding sequence and at most one chunk of prompts, the oldest first."""
    scheduler = Scheduler(num_blocks=NUM_BLOCKS, max_batch_size=MAX_BATCH, prefill_chunk=CHUNK)
    first = sequence_of("first", 10)
    scheduler.add(first)
    run_plan(scheduler, scheduler.schedule(), 0, 0)
    scheduler.add(sequence_of("long", 60))
    scheduler.add(sequence_of("short", 8))

    shapes = []
    for _ in range(4):
        plan = scheduler.schedule()
        shapes.append(
            (
                [s.request_id for s in plan.decodes],
                [(chunk.sequence.request_id, chunk.num_tokens) for chunk in plan.prefills],
            )
        )
        run_plan(scheduler, plan, 0, 0)

    assert shapes == [
        (["first"], [("long", 24)]),
        (["first"], [("long", 24)]),
        (["first"], [("long", 12), ("short", 8)]),
        (["first", "long", "short"], []),
    ]
