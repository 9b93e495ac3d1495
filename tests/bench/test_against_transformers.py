"""The comparison with transformers, on models small enough to be wrong on purpose."""

import dataclasses

import pytest
import torch

from bench.against_transformers import NATIVE, ROUNDED, Agreement, compare, greedy_answers, judged
from bowsprit_engine.models import load_model
from hf_models import random_model, save
from tiny_models import greedy, random_tokens

PROMPTS = [tuple(random_tokens(length, vocab_size=300, seed=length)) for length in (3, 17, 40, 5, 9, 31, 2, 8, 20, 11)]


@pytest.fixture(scope="module")
def model():
    return random_model("llama 2")


def runner_of(model, folder):
    return load_model(save(model, folder), backend="torch", dtype="float32").runner


def agreement_with(reference, runner):
    return compare(runner, reference, PROMPTS, num_tokens=12, name="torch, float32", say=lambda line: None)


def test_a_runner_agrees_with_the_model_that_it_runs(model, tmp_path):
    """Every text and every row, over more prompts than go together."""
    agreement = agreement_with(model, runner_of(model, tmp_path))

    assert agreement.num_equal_texts == len(PROMPTS)
    assert agreement.largest_logit_error < 1e-5
    assert agreement.largest_margin_lost == 0.0
    assert judged([agreement]) == []


def test_another_models_texts_differ_and_are_judged(model, tmp_path):
    """One layer's weights are off by a little: most texts differ, and the verdict has both figures."""
    other = random_model("llama 2")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(1.5)

    agreement = agreement_with(other, runner_of(model, tmp_path))

    assert agreement.num_equal_texts < len(PROMPTS)
    assert agreement.largest_margin_lost > 0.0
    assert ["of texts equal, least 95%" in fault or "logits off by" in fault for fault in judged([agreement])] == [
        True
    ] * 2


def test_prompts_that_go_together_are_answered_as_each_alone(model, tmp_path):
    """Other lengths, other ends."""
    runner = runner_of(model, tmp_path)
    runner.allocate_kv(32)
    together = greedy_answers(runner, PROMPTS[:4], num_tokens=12, blocks_each=4)

    for prompt, (answer, logits) in zip(PROMPTS, together, strict=False):
        assert answer == greedy(runner, prompt, num_tokens=12)
        assert logits.argmax(dim=-1).tolist() == answer


def test_bf16_is_judged_by_its_logits_beside_torchs_own():
    """It rounds otherwise than float32, so near ties fall otherwise; but no worse than torch's operators."""
    torchs = Agreement(
        runner=ROUNDED,
        num_prompts=10,
        num_tokens=100,
        num_equal_texts=2,
        largest_logit_error=0.1,
        largest_margin_lost=0.3,
    )
    good = dataclasses.replace(torchs, runner=NATIVE, largest_logit_error=0.09)
    bad = dataclasses.replace(torchs, runner=NATIVE, largest_logit_error=0.2)

    assert judged([torchs, good]) == []
    assert "logits off by 2.00e-01 of their norm, at most 1.00e-01" in judged([torchs, bad])[0]


def test_nothing_to_compare_is_an_error(model, tmp_path):
    """An empty run would agree with everything."""
    with pytest.raises(ValueError, match="no prompts"):
        compare(runner_of(model, tmp_path), model, [], num_tokens=1, name="native", say=lambda line: None)
