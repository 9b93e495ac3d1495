"""Whatever happens to a sequence in a tiny cache, it answers as in a roomy one: preemption and reuse lose nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.core.kv_cache import num_blocks_for
from bowsprit_engine.core.request import FinishReason
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from core.stepping import Stepping
from fakes import adversary

MAX_MODEL_LEN = 96
SAMPLINGS = ({"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 0.8, "frequency_penalty": 0.7})
BEGINNINGS = ([3, 5, 8, 13, 21, 34, 55] * 8, [2, 7, 1, 8, 2, 8, 1] * 8)


@st.composite
def requests(draw):
    """(prompt, sampling): prompts that are equal to a random length, or from the first token on."""
    beginning = draw(st.sampled_from(BEGINNINGS))
    shared = beginning[: draw(st.integers(1, 50))]
    own = draw(st.lists(st.integers(0, 58), max_size=8))
    sampling = draw(st.sampled_from(SAMPLINGS))
    return [*shared, *own], {**sampling, "seed": draw(st.integers(0, 2)), "max_tokens": draw(st.integers(1, 30))}


lives = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), requests()),
        st.tuples(st.just("cancel"), st.integers(0, 7)),
        st.tuples(st.just("steps"), st.integers(1, 6)),
    ),
    min_size=2,
    max_size=14,
)
engines = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(6, 12),
        "max_batch_size": st.integers(1, 4),
        "prefill_chunk": st.sampled_from([3, 16, 24, 64]),
        "has_prefix_cache": st.sampled_from([True, True, False]),
        "draft_tokens": st.integers(0, 5),
    }
)


def assert_accounted(stepping):
    """Every block is owned by the sequences that list it, or free; those that wait have none.

    None is kept for drafts after their step.
    """
    scheduler, blocks = stepping.scheduler, stepping.scheduler.blocks
    listed = [block for sequence in scheduler.running for block in sequence.block_ids]
    assert [listed.count(block) for block in range(blocks.num_blocks)] == [
        blocks.num_owners(block) for block in range(blocks.num_blocks)
    ]
    assert len(set(listed)) + blocks.num_free == blocks.num_blocks
    assert [sequence.request_id for sequence in scheduler.waiting if sequence.block_ids] == []
    needed = [num_blocks_for(len(sequence.token_ids)) for sequence in scheduler.running]
    assert [
        sequence.request_id
        for sequence, most in zip(scheduler.running, needed, strict=True)
        if len(sequence.block_ids) > most
    ] == []


@settings(max_examples=60, deadline=None)
@given(lives, engines)
def test_a_tiny_cache_gives_the_answers_of_a_roomy_one(life, engine):
    """Random arrivals, cancellations, lengths, drafts and neighbours: tokens and ends are those of a life alone."""
    tiny = Stepping(**engine, drafters=[NGramDrafter(name="ngram"), adversary()], max_model_len=MAX_MODEL_LEN)
    alone = Stepping(max_batch_size=1, has_prefix_cache=False, max_model_len=MAX_MODEL_LEN)
    asked = {}
    for event in life:
        match event:
            case ("arrive", (prompt, sampling)):
                name = f"r{len(asked)}"
                asked[name] = (prompt, sampling)
                tiny.submit(name, prompt, **sampling)
            case ("cancel", index):
                tiny.stepper.sequences.cancel(f"r{index}")
            case ("steps", count):
                for _ in range(count):
                    tiny.stepper.step()
                    assert_accounted(tiny)
        assert_accounted(tiny)
    while tiny.scheduler.has_work:
        tiny.stepper.step()
        assert_accounted(tiny)

    for name, (prompt, sampling) in asked.items():
        expected, told = alone.answer(name, prompt, **sampling), tiny.tokens(name)
        is_cancelled = tiny.outputs[name][-1].finish_reason == FinishReason.ABORT
        assert told == (expected[: len(told)] if is_cancelled else expected)
    assert tiny.scheduler.blocks.num_free == engine["num_blocks"]
