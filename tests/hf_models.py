"""Small random models of the Llama family, built by transformers itself and saved as it saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tiny_models import byte_tokenizer

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # not hidden_size / heads
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama 2": ("llama", {}),
    "smollm": (
        "llama",
        {
            "hidden_size": 144,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": None,
            "tie_word_embeddings": True,
        },
    ),
    "llama, all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3_ROPE, "eos_token_id": [0, 2, 3]}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama, yarn": ("llama", {"rope_parameters": YARN_ROPE}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 21}),
    "mistral, window of one": ("mistral", {"sliding_window": 1}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows above": ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN_ROPE | {"beta_fast": 16.0, "attention_factor": 1.3}}),
    "qwen3": ("qwen3", {}),
    "qwen3, biases, windows": (
        "qwen3",
        {
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 17,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
}


def random_model(name: str, *, changes: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """One of FAMILIES in float32; every weight, bias and norm is random, none at its initial 0 or 1."""
    model_type, own = FAMILIES[name]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own, **(changes or {})})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3 if key.endswith("bias") else 0.08, generator=generator)
            if "norm" in key:
                parameter.add_(1.0)
    return model.float().eval()


def save(model: PreTrainedModel, folder: Path, *, max_shard_size: str = "1GB") -> Path:
    """As transformers writes it, with a byte-level tokenizer."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    byte_tokenizer(model.config.vocab_size).save(str(folder / "tokenizer.json"))
    return folder


@torch.inference_mode()
def logits_of(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:  # [tokens, vocab] float32
    return model(torch.tensor([list(tokens)])).logits[0].float()
