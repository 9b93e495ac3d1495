"""Every family and option by the native step: against transformers on the weights that it stores, and bit by bit.

The error's bound is that of test_native_step.py: the roundings to bf16 that a value passes through.
"""

import pytest
import torch

from bowsprit_engine.kernels import native
from bowsprit_engine.models import load_model
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, usable
from hf_models import FAMILIES, logits_of, random_model, save
from tiny_models import random_tokens, rows

BF16_ROUNDING = 2**-9  # of a value, at most
NUM_LAYERS = 2
NUM_TOKENS = 150  # beyond every window and every original length
TABLES = ([3, 1, 7, 2, 11, 15, 9, 13, 5, 17], [4, 6, 0, 8, 10, 12, 14, 16, 18, 19])


@pytest.fixture(params=[variant.name for variant in usable(cpu_features())], autouse=True)
def instruction_set(request, monkeypatch):
    """Every variant that this processor runs."""
    monkeypatch.setenv(CHOSEN_VARIANT, request.param)


def bf16_model(name):
    """Its matrices are what the native runner stores."""
    model = random_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.bfloat16())
    return model


def error_bound():
    rounds_activations = native.activation_dtype() == torch.bfloat16
    return BF16_ROUNDING * (NUM_LAYERS * (6 if rounds_activations else 2) + rounds_activations)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_computes_what_transformers_computes_and_rows_keep_their_bits(tmp_path, name):
    """The prompt in one step, one token per step and nine: within the roundings, and with the very same bits."""
    model = bf16_model(name)
    prompt = random_tokens(NUM_TOKENS, vocab_size=300)
    expected = logits_of(model, prompt)
    runner = load_model(save(model, tmp_path), backend="native", num_threads=2).runner
    runner.allocate_kv(20)

    whole = runner.forward(rows((prompt, 0, TABLES[0]))).logits
    in_steps = {
        size: torch.cat(
            [
                runner.forward(rows((prompt[begin : begin + size], begin, TABLES[1]))).logits
                for begin in range(0, NUM_TOKENS, size)
            ]
        )
        for size in (1, 9)
    }

    errors = (whole - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) <= error_bound()
    assert torch.equal(in_steps[1], whole)
    assert torch.equal(in_steps[9], whole)


@pytest.mark.parametrize("name", ["mistral, window", "qwen3, biases, windows"])
def test_neighbours_do_not_change_a_bit_under_a_window(tmp_path, name):
    """Two sequences at other positions in one step, against each alone."""
    runner = load_model(save(bf16_model(name), tmp_path), backend="native", num_threads=2).runner
    runner.allocate_kv(20)
    first, second = (random_tokens(70, vocab_size=300, seed=seed) for seed in (1, 2))
    alone = [runner.forward(rows((tokens, 0, TABLES[0]))).logits for tokens in (first, second)]

    runner.forward(rows((first[:33], 0, TABLES[0]), (second[:50], 0, TABLES[1])))
    together = runner.forward(rows((first[33:40], 33, TABLES[0]), (second[50:63], 50, TABLES[1]))).logits

    assert torch.equal(together[:7], alone[0][33:40])
    assert torch.equal(together[7:], alone[1][50:63])
