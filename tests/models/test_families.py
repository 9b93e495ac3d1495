"""Every family and option against transformers' own model of it, on random weights: the torch runner in float32.

And the native runner against transformers on the weights that it stores (rounded to bf16), within its roundings.
"""

import pytest
import torch

from bowsprit_engine.models import load_model
from hf_models import FAMILIES, logits_of, random_model, save
from tiny_models import random_tokens, rows

TOLERANCE = {"rtol": 1e-4, "atol": 5e-5}  # float32 sums in another order, two layers deep; logits are about 1
NUM_TOKENS = 150  # beyond every window and every original length
PARTS = ((0, 70), (70, 71), (71, 80), (80, 150))
TABLES = ([3, 1, 7, 2, 11, 15, 9, 13, 5, 17], [4, 6, 0, 8, 10, 12, 14, 16, 18, 19])


def outputs(runner, prompt):
    """Logits with the prompt in one step, and in parts."""
    runner.allocate_kv(20)
    whole = runner.forward(rows((prompt, 0, TABLES[0]))).logits
    parts = [runner.forward(rows((prompt[begin:end], begin, TABLES[1]))).logits for begin, end in PARTS]
    return whole, torch.cat(parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_torch_runner_computes_what_transformers_computes(tmp_path, name):
    """Logits of every row of a prompt that leaves every window behind."""
    model = random_model(name)
    prompt = random_tokens(NUM_TOKENS, vocab_size=300)
    expected = logits_of(model, prompt)
    runner = load_model(save(model, tmp_path), backend="torch", dtype="float32").runner

    whole, parts = outputs(runner, prompt)

    torch.testing.assert_close(whole, expected, **TOLERANCE)
    torch.testing.assert_close(parts, expected, **TOLERANCE)


def test_shards_are_one_model(tmp_path):
    """As save_pretrained cuts them."""
    model = random_model("qwen3")
    prompt = random_tokens(NUM_TOKENS, vocab_size=300)
    folder = save(model, tmp_path, max_shard_size="100KB")
    runner = load_model(folder, backend="torch", dtype="float32").runner

    assert len(list(folder.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(outputs(runner, prompt)[0], logits_of(model, prompt), **TOLERANCE)
