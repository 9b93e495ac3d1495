"""Every answer is the plain one, over a pairwise design of all that could change it, on the native kernels.

All of K = 0..16 on a small random model, a coarser design on SmolLM2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from core import toy_grammar
from exactness.design import ADAPTIVE, Case, cases, pairs_met, pairs_of
from exactness.trial import Bench, Material, assert_is_plain
from fakes import FAKE_EOS, FAKE_VOCAB
from tiny_models import tiny_config

SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8},
    "top_k": {"temperature": 0.9, "top_k": 5},
    "top_p": {"temperature": 0.9, "top_p": 0.7},
    "min_p": {"temperature": 0.9, "min_p": 0.15},
    "presence": {"temperature": 0.8, "presence_penalty": 1.0},
    "frequency": {"temperature": 0.8, "frequency_penalty": 0.7},
    "repetition": {"temperature": 0.8, "repetition_penalty": 1.3},
    "greedy and penalised": {"temperature": 0.0, "frequency_penalty": 0.9, "repetition_penalty": 1.1},
    "bias": {"temperature": 0.8, "logit_bias": {3: 3.0, 7: -100.0, 20: 2.0}},
    "min_tokens": {"temperature": 0.8, "min_tokens": 12, "stop_token_ids": frozenset(range(0, FAKE_VOCAB, 5))},
    "stop": {"temperature": 0.8, "stop_token_ids": frozenset(range(0, FAKE_VOCAB, 9))},
    "all of them": {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.02,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
        "logit_bias": {3: 2.0, 7: -100.0},
        "min_tokens": 5,
        "stop_token_ids": frozenset({2, 33, 47}),
    },
}
LEVELS = {
    "drafter": ("none", "ngram", "head", "suffix+head", "hostile", "oracle", "model"),
    "draft_tokens": (*range(17), ADAPTIVE),
    "batch": tuple(range(1, 9)),
    "neighbours": ("stay", "come and go"),
    "sampling": tuple(SAMPLINGS),
    "logprobs": (None, 0, 3),
    "kv": ("roomy", "tiny"),
    "prefix_cache": (True, False),
    "prefill_chunk": (5, 16, 256),
    "grammar": (None, "words", "record"),
}
CASES = cases(LEVELS)
SYSTEM = [(7 * j * j + 3 * j) % FAKE_EOS for j in range(33)]  # a prefix in common, two blocks and a token
PROMPTS = tuple(
    (*(SYSTEM if i % 2 else []), *((11 * i + 5 * j * (j % 4)) % FAKE_EOS for j in range(1 + 5 * (i % 5))))
    for i in range(10)
)
NUM_VISITORS = 4
GRAMMARS = {
    None: None,
    "words": toy_grammar.regex(r"[a-h]{2,9}(, [a-h0-9]{2,6}){1,4}\."),
    "record": toy_grammar.regex(r'\{"a1": [0-9]{1,8}, "b2": "[a-t ]{4,20}"\}'),
}


class PeakedCheckpoint(RandomCheckpoint):
    """Random weights whose logits spread by about 2.5, as a language model's do; those of a small one by 0.3."""

    def tensor(self, name):
        return super().tensor(name) * (8.0 if name == "lm_head.weight" else 1.0)


class SimilarCheckpoint(PeakedCheckpoint):
    """The same model but for its last norm: one that is often right."""

    def tensor(self, name):
        weight = super().tensor(name)
        return weight * torch.linspace(0.7, 1.3, weight.numel()) if name == "model.norm.weight" else weight


@pytest.fixture(scope="module")
def bench():
    """A small random model on the native kernels, with the toy grammars' vocabulary."""
    config = dataclasses.replace(
        tiny_config(vocab_size=FAKE_VOCAB, tie_word_embeddings=False), eos_token_ids=(FAKE_EOS,)
    )
    runner = NativeRunner(PeakedCheckpoint(Path("random"), config), num_threads=None)
    similar = SimilarCheckpoint(Path("random"), config)
    return Bench(
        Material(
            runner=runner,
            prompts=PROMPTS,
            samplings=SAMPLINGS,
            grammars=GRAMMARS,
            max_tokens=22,
            num_visitors=NUM_VISITORS,
            draft_model=lambda: NativeRunner(similar, num_threads=None),
        )
    )


def test_every_pair_of_levels_meets_in_some_case():
    """Pairwise coverage is complete: no two levels are left that were never tried together."""
    assert pairs_of(LEVELS) - pairs_met(CASES) == set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_answer_is_the_plain_one(bench, case):
    """Tokens, ends and log-probabilities are, bit for bit, those of the same request alone and undrafted."""
    served, expected = bench.run(case)

    assert_is_plain(case, served, expected)
    assert served.stats.kv_cache_usage == 0.0
    assert_exercised(case, served)


def assert_exercised(case: Case, served) -> None:
    """A case that names a drafter or neighbours had them at work."""
    drafted, accepted = drafted_and_accepted(served)
    if isinstance(case.draft_tokens, int) and case.draft_tokens and case.drafter not in ("none", "ngram", "model"):
        assert drafted > 0
        assert (accepted == drafted) is (case.drafter == "oracle")
    if case.neighbours == "come and go":
        assert len(served.answers) == case.batch + 2 + NUM_VISITORS


def drafted_and_accepted(served) -> tuple[int, int]:
    drafters = served.stats.drafters
    return sum(d.drafted_tokens for d in drafters), sum(d.accepted_tokens for d in drafters)


def test_the_design_has_preemptions_prefix_hits_and_matches_of_the_ngram_drafter(bench):
    """What depends on the text that the model happens to emit is at work in some cases of each kind, if not in all."""

    def some(**wanted):
        chosen = [case for case in CASES if all(getattr(case, name) == level for name, level in wanted.items())]
        return [bench.run(case)[0] for case in chosen[:4]]

    assert sum(served.stats.preemptions for served in some(kv="tiny", batch=8)) > 0
    assert sum(served.stats.prefix_cache_hits for served in some(prefix_cache=True, batch=8)) > 0
    assert sum(drafted_and_accepted(served)[1] for served in some(drafter="ngram", draft_tokens=4)) > 0
    drafted, accepted = zip(*map(drafted_and_accepted, some(drafter="model", draft_tokens=4)), strict=True)
    assert 0 < sum(accepted) < sum(drafted)
