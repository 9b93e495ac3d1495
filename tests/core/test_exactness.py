"""Speculation changes no token: not by drafter, number of drafts, neighbours, preemption, greedy or sampled."""

from __future__ import annotations

import pytest

from bowsprit_engine.core.request import FinishReason, StepOutput
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_policy.wire import DrafterCap, PolicyTable, TableRow
from fakes import FAKE_VOCAB, adversary, oracle

NUM_REQUESTS = 7
PROMPTS = {f"r{i}": [(11 * i + 5 * j * j) % 59 for j in range(3 + 9 * i)] for i in range(NUM_REQUESTS)}
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8},
    "filtered": {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
    "penalised": {
        "temperature": 0.7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.7,
        "repetition_penalty": 1.2,
        "logit_bias": {3: 2.0, 7: -100.0},
    },
    "held back, then stopped": {"temperature": 0.8, "min_tokens": 24, "stop_token_ids": frozenset({2, 33, 47})},
    "greedy and penalised": {"temperature": 0.0, "frequency_penalty": 0.9, "repetition_penalty": 1.1},
}


def sampling_of(kind, index):
    return {**SAMPLINGS[kind], "seed": 1000 + index, "max_tokens": 32 + 2 * index}


@pytest.fixture(scope="module")
def plain_answers():
    """What each request answers alone, without speculation, by kind of sampling."""
    return {}


@pytest.fixture
def expected(plain_answers, serve):
    """Answers of one kind, from an engine that serves one request at a time and never drafts."""

    def answers(kind):
        if kind not in plain_answers:
            served = serve(speculation_mode="off", max_batch_size=1)
            plain_answers[kind] = {
                name: served.submit(name, prompt, **sampling_of(kind, index)).wait().token_ids
                for index, (name, prompt) in enumerate(PROMPTS.items())
            }
        return plain_answers[kind]

    return answers


def drafters_of(kind, known):
    sequences = {name: PROMPTS[name] + tokens for name, tokens in known.items()}
    return {
        "ngram": lambda: [NGramDrafter(name="ngram")],
        "adversary": lambda: [adversary()],
        "oracle": lambda: [oracle(sequences)],
        "ngram, else adversary": lambda: [adversary(), NGramDrafter(name="ngram")],
    }[kind]()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("drafting", ["ngram", "adversary", "oracle", "ngram, else adversary"])
@pytest.mark.parametrize(("draft_tokens", "batch", "kv_blocks"), [(1, 8, 128), (6, 3, 128), (4, 8, 17)])
def test_a_request_answers_as_it_does_alone_and_without_speculation(
    serve, expected, sampling, drafting, draft_tokens, batch, kv_blocks
):
    """Any drafter, K, batch and KV pressure give the tokens of the plain engine, bit for bit."""
    known = expected(sampling)
    served = serve(
        drafters=drafters_of(drafting, known),
        speculation_mode=draft_tokens,
        max_batch_size=batch,
        kv_blocks=kv_blocks,
    )
    answers = {
        name: served.submit(name, prompt, **sampling_of(sampling, index))
        for index, (name, prompt) in enumerate(PROMPTS.items())
    }

    assert known == {name: answer.wait().token_ids for name, answer in answers.items()}
    assert served.engine.stats().kv_cache_usage == 0.0
    assert sum(drafter.drafted_tokens for drafter in served.engine.drafters()) > 0
    if kv_blocks == 17 and drafting != "oracle":  # whose requests may end before the next is there
        assert served.engine.stats().preemptions > 0


@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_neighbours_that_come_and_go_change_nothing(serve, expected, sampling):
    """Requests that arrive, are cancelled and end beside a request leave its tokens as they are."""
    known = expected(sampling)
    served = serve(drafters=[adversary(), NGramDrafter(name="ngram")], speculation_mode=3, kv_blocks=24)
    neighbours = []
    later = iter(range(1000))

    def come_and_go(output: StepOutput) -> None:
        index = next(later)
        if index % 3 == 0 and output.finish_reason is None:
            prompt = [(index + 7 * j) % FAKE_VOCAB for j in range(1 + index)]
            neighbours.append(served.submit(f"n{index}", prompt, max_tokens=9, temperature=1.0, seed=index))
        if index % 4 == 0:
            served.engine.cancel(f"n{index - index % 3}")

    answers = {
        name: served.submit(name, prompt, on_output=come_and_go, **sampling_of(sampling, index))
        for index, (name, prompt) in enumerate(PROMPTS.items())
    }

    assert known == {name: answer.wait().token_ids for name, answer in answers.items()}
    assert {FinishReason.LENGTH, FinishReason.ABORT} >= {answer.wait().finish_reason for answer in neighbours}


@pytest.mark.parametrize("drafting", ["oracle", "adversary"])
def test_log_probabilities_and_ends_are_the_plain_engines(serve, expected, drafting):
    """Of every emitted token, whether it was drafted, refused, the bonus, or the one that ended the answer."""

    def told(served):
        answers = [
            served.submit(name, prompt, num_logprobs=3, **sampling_of("held back, then stopped", index)).wait()
            for index, (name, prompt) in enumerate(PROMPTS.items())
        ]
        return [
            (answer.finish_reason, [entry for output in answer.outputs for entry in output.logprobs])
            for answer in answers
        ]

    drafters = drafters_of(drafting, expected("held back, then stopped"))

    assert told(serve(speculation_mode="off")) == told(serve(drafters=drafters, speculation_mode=4))


def test_an_oracle_needs_one_step_per_seven_tokens(serve, expected):
    """With 6 right drafts every step emits 7 tokens: speculation really happens, and the counters say so."""
    known = expected("greedy")
    name = "r6"
    served = serve(drafters=drafters_of("oracle", known), speculation_mode=6)

    answer = served.submit(name, PROMPTS[name], **sampling_of("greedy", 6)).wait()

    metrics = answer.last.metrics
    assert [len(output.token_ids) for output in answer.outputs] == [1, 7, 7, 7, 7, 7, 7, 1]
    assert (metrics.num_spec_steps, metrics.num_draft_tokens, metrics.num_accepted_draft_tokens) == (6, 36, 36)
    assert metrics.acceptance_histogram == (0, 0, 0, 0, 0, 0, 6)
    (stats,) = served.engine.drafters()
    assert (stats.reached, stats.matched) == ((6,) * 6, (6,) * 6)
    (finished,) = served.finished
    assert (finished.accepted_counts, finished.drafter_names) == ((6,) * 6 + (0,), ("oracle",) * 6 + ("",))


@pytest.mark.parametrize("num_prompt_tokens", [1, 16, 17])
def test_the_first_token_belongs_to_no_decode_step_however_the_prompt_is_cut(serve, num_prompt_tokens):
    """Chunks are of 16: what is left of 17, and a prompt of one token, is a prompt and no step of decoding."""
    served = serve(drafters=[NGramDrafter(name="ngram")], speculation_mode=0)

    served.submit("r", [5] * num_prompt_tokens, max_tokens=4).wait()

    (finished,) = served.finished
    assert (finished.accepted_counts, served.engine.stats().sequence_steps) == ((0, 0, 0), 3)


def test_probes_and_tables_change_no_token(serve, expected):
    """In mode auto, with probes, pushed tables and lowering at work, the tokens are the plain engine's."""
    known = expected("sampled")
    served = serve(drafters=[adversary(), NGramDrafter(name="ngram")])
    tables = iter(range(1, 1000))

    def push(_: StepOutput) -> None:
        revision = next(tables)
        caps = (
            DrafterCap(name="ngram", draft_tokens=revision % 7),
            DrafterCap(name="adversary", draft_tokens=revision % 3),
        )
        served.engine.set_policy(PolicyTable(revision=revision, table=(TableRow(drafters=caps),)))

    answers = {
        name: served.submit(name, prompt, on_output=push, **sampling_of("sampled", index))
        for index, (name, prompt) in enumerate(PROMPTS.items())
    }

    assert known == {name: answer.wait().token_ids for name, answer in answers.items()}
