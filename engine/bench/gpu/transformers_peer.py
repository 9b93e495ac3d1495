"""Hugging Face transformers on the same device and shape, what people would run instead, with random weights."""

from __future__ import annotations

import importlib.util
import time

import torch

from bench.gpu.scale import Scale


def is_installed() -> bool:
    return importlib.util.find_spec("transformers") is not None


def tokens_per_second(scale: Scale, device: torch.device, *, batch: int) -> float:
    """Of `generate`, greedy, with its default cache; prompts included, as it can't be asked to leave them out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = scale.config
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_model_len,
        tie_word_embeddings=c.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    try:
        with device:
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    prompts = torch.randint(0, c.vocab_size, (batch, scale.prompt_tokens), device=device)

    def generate(num_tokens: int) -> None:
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
        )
        if device.type == "cuda":
            torch.cuda.synchronize()

    generate(2)
    begin = time.perf_counter()
    generate(scale.answer_tokens)
    return batch * scale.answer_tokens / (time.perf_counter() - begin)
