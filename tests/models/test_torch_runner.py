"""The plain torch runner against transformers' own Llama, in float32."""

import pytest
import torch
from transformers import LlamaForCausalLM

from bowsprit_engine.models import load_model
from tiny_models import random_tokens, rows, table_of, tiny_config, tiny_llama

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}  # float32 sums in another order, two layers deep


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "hidden_size": 16},
        {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "tie_word_embeddings": False},
        {"intermediate_size": 90, "vocab_size": 259, "head_dim": 6},
    ],
)
def test_it_computes_what_transformers_computes(tmp_path, shape):
    """Logits of every row, with the prompt in one step and in three."""
    config = tiny_config(**shape)
    folder = tiny_llama(tmp_path, config)
    prompt = random_tokens(50, vocab_size=config.vocab_size)
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0]
    runner = load_model(folder, backend="torch", dtype="float32").runner
    runner.allocate_kv(8)

    whole = runner.forward(rows((prompt, 0, [3, 1, 7, 2])))
    parts = [
        runner.forward(rows((prompt[begin:end], begin, [4, 6, 0, 5]))).logits
        for begin, end in ((0, 17), (17, 18), (18, 50))
    ]

    torch.testing.assert_close(whole.logits, expected, **TOLERANCE)
    torch.testing.assert_close(torch.cat(parts), expected, **TOLERANCE)


def test_hidden_is_the_input_of_the_final_norm(tmp_path):
    """Norm and LM head over it give the logits."""
    model = load_model(tiny_llama(tmp_path), backend="torch", dtype="float32")
    runner = model.runner
    runner.allocate_kv(4)
    output = runner.forward(rows((random_tokens(20, vocab_size=300), 0, table_of(20)), logit_rows=[4, 19]))

    normed = torch.nn.functional.rms_norm(output.hidden[[4, 19]], (64,), runner.final_norm_weight(), 1e-5)
    expected = normed @ runner.lm_head_rows(torch.arange(300)).T

    torch.testing.assert_close(output.logits, expected, **TOLERANCE)


def test_a_rejected_draft_is_overwritten(tmp_path):
    """A row at a position that was written before sees only what is new."""
    runner = load_model(tiny_llama(tmp_path), backend="torch", dtype="float32").runner
    runner.allocate_kv(4)
    prompt = random_tokens(30, vocab_size=300)
    expected = runner.forward(rows((prompt, 0, [0, 1]))).logits[-1]

    runner.forward(rows(([*prompt[:25], 7, 8, 9, 10], 0, [2, 3])))
    again = runner.forward(rows((prompt[25:], 25, [2, 3]))).logits[-1]

    torch.testing.assert_close(again, expected, **TOLERANCE)


def test_a_step_before_the_cache_exists_is_a_programming_error(tmp_path):
    """Said in words instead of failing on None."""
    runner = load_model(tiny_llama(tmp_path), backend="torch").runner

    with pytest.raises(RuntimeError, match="allocate_kv comes before the first step"):
        runner.forward(rows(([1], 0, [0])))
