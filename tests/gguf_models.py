"""A transformers model as GGUF, as llama.cpp's converter writes its architecture; names by the `gguf` package's map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import PreTrainedModel

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.models.rope import inverse_frequencies
from tiny_models import permuted, write_byte_tokenizer

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,  # llama.cpp has no other name for it
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def gguf_of(
    model: PreTrainedModel,
    config: ModelConfig,
    path: Path,
    *,
    quantisation: GGMLQuantizationType = GGMLQuantizationType.F32,
    changes: Callable[[GGUFWriter], Any] | None = None,
) -> Path:
    """`config` is the model's, as its folder is read. Matrices of layers are quantised, other tensors float32."""
    architecture = ARCHITECTURES[model.config.model_type]
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _write_shape(writer, config)
    _write_rope(writer, model, config)
    write_byte_tokenizer(writer, config.vocab_size, cutting="gpt-2")
    if changes is not None:
        changes(writer)
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture == gguf.MODEL_ARCH.LLAMA and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_heads if ".q_proj." in name else config.num_kv_heads
            tensor = permuted(tensor[:, None] if tensor.ndim == 1 else tensor, heads).reshape(tensor.shape)
        kind = quantisation if tensor.ndim == 2 and ".layers." in name else GGMLQuantizationType.F32
        data = gguf.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_model_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    windows = [window for window in config.layer_windows if window is not None]
    if windows:
        writer.add_sliding_window(windows[0])
        writer.add_sliding_window_pattern([window is not None for window in config.layer_windows])


def _write_rope(writer: GGUFWriter, model: PreTrainedModel, config: ModelConfig) -> None:
    """Llama 3.1's scaling as divisors, the others as metadata."""
    parameters = model.config.rope_parameters
    match parameters["rope_type"]:
        case "llama3":
            plain = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2) / config.head_dim)
            writer.add_tensor("rope_freqs.weight", (plain / inverse_frequencies(config)).numpy().astype(np.float32))
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(parameters["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(parameters["factor"])
            writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
            writer.add_rope_scaling_yarn_beta_fast(parameters.get("beta_fast", 32.0))
