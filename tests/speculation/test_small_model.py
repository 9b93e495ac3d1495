"""The draft model's tokens are its own continuation of the text, whatever became of earlier drafts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.kernels import native, reference
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.speculation.drafters.small_model import SmallModelDrafter
from bowsprit_policy.wire import DrafterState
from draft_contexts import draft_context
from tiny_models import rows, tiny_config

CONFIG = tiny_config(max_model_len=96, tie_word_embeddings=False)
VOCAB = CONFIG.vocab_size

context = partial(draft_context, request_id="a", max_draft_tokens=4, seed=7)


class SharpCheckpoint(RandomCheckpoint):
    """Logits that spread as a language model's do, and tell every earlier token: wrong KV gives wrong drafts."""

    def tensor(self, name):
        return super().tensor(name) * (8.0 if "lm_head" in name or "v_proj" in name or "o_proj" in name else 1.0)


@cache
def weights():
    return SharpCheckpoint(Path("tiny"), CONFIG, seed=3)


@cache
def plain_runner():
    """The same model without drafting: what its drafts are compared with."""
    runner = NativeRunner(weights(), num_threads=None)
    runner.allocate_kv(8)
    return runner


def drafter(*, num_blocks=32, chunk_tokens=64, target_vocab_size=VOCAB, runner=None):
    return SmallModelDrafter(
        name="small",
        runner=runner or NativeRunner(weights(), num_threads=None),
        num_blocks=num_blocks,
        target_vocab_size=target_vocab_size,
        chunk_tokens=chunk_tokens,
        draw=native.draw,
    )


def continuation(text, num_tokens, *, seed=7, temperature=0.0, top_k=0):
    """Token by token, the whole text computed anew each time, drawn by the reference."""
    text = list(text)
    for _ in range(num_tokens):
        step = rows((text, 0, list(range(8))), logit_rows=[len(text) - 1])
        logits = plain_runner().forward(step).logits[0]
        token = reference.draw_row(
            logits, temperature=temperature, top_k=top_k, top_p=1.0, min_p=0.0, seed=seed, position=len(text)
        )
        text.append(int(token))
    return tuple(text[-num_tokens:])


PROMPT = tuple((7 * i * i + 3 * i) % VOCAB for i in range(20))


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.8}, {"temperature": 1.3, "seed": 11}, {"temperature": 1.0, "top_k": 4}]
)
def test_a_draft_is_the_models_own_continuation_with_the_targets_noise(how):
    """Greedy and sampled; each sequence up to its own cap, in one pass."""
    drafts = drafter().propose(
        [context(PROMPT, max_draft_tokens=5, **how), context(PROMPT[:7], request_id="b", max_draft_tokens=2, **how)]
    )

    assert [draft.token_ids for draft in drafts] == [
        continuation(PROMPT, 5, **how),
        continuation(PROMPT[:7], 2, **how),
    ]


def test_confidence_is_what_the_model_gives_its_own_token():
    """At the request's temperature; at 1 where it is greedy."""
    (draft,) = drafter().propose([context(PROMPT, max_draft_tokens=1, temperature=0.5)])

    logits = plain_runner().forward(rows((PROMPT, 0, [0, 1]), logit_rows=[len(PROMPT) - 1])).logits[0]
    expected = torch.softmax(logits / 0.5, dim=-1)[draft.token_ids[0]].item()
    assert draft.confidences == pytest.approx((expected,), rel=1e-4)


def test_tokens_ahead_are_continued_and_not_kept():
    """Another drafter's tokens are text for one call; what was emitted instead is followed in the next."""
    small = drafter()
    ahead = small.propose([context(PROMPT, ahead=(5, 6, 7))])[0]
    then = small.propose([context([*PROMPT, 5, 9])])[0]

    assert ahead.token_ids == continuation([*PROMPT, 5, 6, 7], 4)
    assert then.token_ids == continuation([*PROMPT, 5, 9], 4)


def test_a_sequence_that_lags_more_than_a_chunk_is_drafted_when_it_has_caught_up():
    """20 tokens by chunks of 8: two steps without a draft; the lag is told meanwhile. One beside it is drafted."""
    small = drafter(chunk_tokens=8)
    seen = []
    for _ in range(4):
        long, short = small.propose(
            [context(PROMPT, max_draft_tokens=1), context(PROMPT[:2], request_id="b", max_draft_tokens=1)]
        )
        seen.append((len(long.token_ids), len(short.token_ids), small.kv_lag_tokens))

    assert seen == [(0, 1, 13), (0, 1, 6), (1, 1, 0), (1, 1, 0)]


def test_a_sequence_held_at_no_drafts_lags_and_catches_up():
    """`learn` computes nothing, and loses nothing."""
    small = drafter()
    small.propose([context(PROMPT)])
    text = list(PROMPT)
    for token in range(30):
        text.append(token)
        small.learn(context(text))
    lag = small.kv_lag_tokens
    (draft,) = small.propose([context(text)])
    small.learn(context(text))

    assert (lag, draft.token_ids, small.kv_lag_tokens) == (29, continuation(text, 4), 0)


def test_blocks_of_an_idle_sequence_go_to_those_that_draft_and_come_back_with_its_text():
    """Room for one: the other is computed again when it is asked. Forgetting both leaves nothing owned."""
    small = drafter(num_blocks=2)
    for name, text in (("a", PROMPT), ("b", PROMPT[::-1]), ("a", PROMPT)):
        (draft,) = small.propose([context(text, request_id=name)])
        assert draft.token_ids == continuation(text, 4)
    small.forget("a")
    small.forget("b")

    assert small.kv.blocks.num_free == 2


def test_without_blocks_a_sequence_is_not_drafted_and_nothing_fails():
    """Who came first in the call is."""
    small = drafter(num_blocks=2)

    drafts = small.propose([context(PROMPT), context(PROMPT, request_id="b")])

    assert [draft.token_ids for draft in drafts] == [continuation(PROMPT, 4), ()]


def test_nothing_is_drafted_beyond_the_models_length():
    """The last position gives one more token; a longer text gives none."""
    text = [(5 * i) % VOCAB for i in range(CONFIG.max_model_len + 1)]
    small = drafter(chunk_tokens=128)

    lengths = [len(small.propose([context(text[:n], request_id=str(n))])[0].token_ids) for n in (94, 96, 97)]

    assert lengths == [3, 1, 0]


def test_logits_that_are_not_finite_end_a_sequences_drafts_and_are_counted():
    """Its blocks come back, others are drafted, and it isn't tried again."""
    runner = NativeRunner(weights(), num_threads=None)
    small = drafter(runner=runner)
    healthy = runner.forward

    def poisoned(batch):
        output = healthy(batch)
        output.logits[batch.token_ids[batch.logit_rows] == 13] = torch.nan
        return output

    runner.forward = poisoned
    drafts = small.propose([context((1, 2, 13)), context(PROMPT, request_id="b")])
    again = small.propose([context((1, 2, 13, 4))])

    assert [draft.token_ids for draft in [*drafts, *again]] == [(), continuation(PROMPT, 4), ()]
    assert (small.num_not_finite, small.state, small.kv.blocks.num_free) == (1, DrafterState.ACTIVE, 30)


def test_a_model_that_computes_no_numbers_is_broken_from_the_start():
    """The self-test is one row."""

    class NotFinite(RandomCheckpoint):
        def tensor(self, name):
            return super().tensor(name) * (torch.nan if name == "model.norm.weight" else 1.0)

    small = drafter(runner=NativeRunner(NotFinite(Path("tiny"), CONFIG), num_threads=None))

    assert (small.state, small.reason) == (
        DrafterState.BROKEN,
        "self-test: the draft model's logits are not finite",
    )


def test_padding_of_a_larger_vocabulary_is_never_drafted():
    """The target has 40 tokens; no draft names another one."""
    drafts = drafter(target_vocab_size=40).propose(
        [context(PROMPT[:1], max_draft_tokens=8, temperature=2.0, seed=s, request_id=str(s)) for s in range(8)]
    )

    assert {token < 40 for draft in drafts for token in draft.token_ids} == {True}


@dataclass
class Story:
    """A sequence as the engine would grow it."""

    text: list[int]
    draft: tuple[int, ...] = field(default=())


@settings(max_examples=40, deadline=None)
@given(
    num_blocks=st.integers(6, 14),
    chunk=st.integers(3, 40),
    moves=st.lists(
        st.tuples(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
            st.integers(0, 5),  # cap; 0: learn only
            st.integers(0, 5),  # accepted
            st.integers(0, VOCAB - 1),  # bonus
            st.lists(st.integers(0, VOCAB - 1), max_size=4),  # accepted of another drafter instead
            st.booleans(),  # the sequence ends
        ),
        max_size=14,
    ),
)
def test_whatever_the_history_a_draft_is_the_models_own_continuation(num_blocks, chunk, moves):
    """Any sequences, caps, acceptance, phases without drafts, ends, and memory: each draft that there is, is right; and
    no block is lost.
    """
    small = drafter(num_blocks=num_blocks, chunk_tokens=chunk)
    stories: dict[str, Story] = {}
    for names, cap, accepted, bonus, others, ends in moves:
        for name in names:
            stories.setdefault(name, Story(text=list(PROMPT[: 5 + 6 * "abc".index(name)])))
        drafts = (
            small.propose([context(stories[n].text, request_id=n, max_draft_tokens=cap) for n in names])
            if cap
            else [None] * len(names)
        )
        for name, draft in zip(names, drafts, strict=True):
            story = stories[name]
            proposed = draft.token_ids if draft is not None else ()
            if proposed:
                assert proposed == continuation(story.text, cap)
            story.text += [*(others or proposed[:accepted]), bonus]
            small.learn(context(story.text, request_id=name))
            if len(story.text) > 80 or (ends and name == names[0]):
                small.forget(name)
                del stories[name]
    for name in stories:
        small.forget(name)

    assert (small.kv.blocks.num_free, small.kv_lag_tokens) == (num_blocks, 0)
