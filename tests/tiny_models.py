"""Llama models small enough for a test, written as a Hugging Face folder or as GGUF, and rows to run on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, StepBatch
from bowsprit_engine.models.gguf import LAYER_PARTS, WHOLE_MODEL_NAMES
from bowsprit_engine.models.random_weights import RandomCheckpoint

SPECIAL_TOKENS = ("<|end|>", "<|start|>")
MERGE = ("t", "h")
CHAT_TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"


def tiny_config(
    *,
    vocab_size: int = 300,
    hidden_size: int = 64,
    intermediate_size: int = 96,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    max_model_len: int = 256,
    tie_word_embeddings: bool = True,
) -> ModelConfig:
    """A decoder of about 100,000 parameters."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_model_len=max_model_len,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=1,
        eos_token_ids=(0,),
    )


def tiny_llama(
    folder: Path,
    config: ModelConfig | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    num_shards: int = 1,
    config_changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a Hugging Face folder with random weights and a byte-level tokenizer; returns the folder."""
    config = config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = RandomCheckpoint(folder, config, seed=seed)
    tensors = {name: checkpoint.tensor(name).to(dtype) for name in checkpoint.names()}
    _save(folder, tensors, num_shards)
    (folder / "config.json").write_text(json.dumps(_hugging_face_config(config) | dict(config_changes or {})))
    byte_tokenizer(config.vocab_size).save(str(folder / "tokenizer.json"))
    tokenizer_config = {"eos_token": "<|end|>", "bos_token": "<|start|>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def tiny_gguf(path: Path, config: ModelConfig | None = None, *, seed: int = 0, changes: Any = None) -> Path:
    """The same model as `tiny_llama` of the same seed, as llama.cpp's converter writes it (query and key permuted)."""
    config = config or tiny_config()
    checkpoint = RandomCheckpoint(path, config, seed=seed)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_model_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    write_byte_tokenizer(writer, config.vocab_size, cutting="smollm")
    if changes is not None:
        changes(writer)
    names = {hugging_face: gguf for gguf, hugging_face in WHOLE_MODEL_NAMES.items()}
    parts = {hugging_face: gguf for gguf, hugging_face in LAYER_PARTS.items()}
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if name.endswith("q_proj.weight"):
            tensor = permuted(tensor, config.num_heads)
        if name.endswith("k_proj.weight"):
            tensor = permuted(tensor, config.num_kv_heads)
        if name not in names:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            names[name] = f"blk.{layer}.{parts[part]}.weight"
        writer.add_tensor(names[name], tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(weight: Tensor, num_heads: int) -> Tensor:
    """llama.cpp's `LlamaModel.permute`: each head's (2, head_dim / 2) rows to (head_dim / 2, 2)."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns).contiguous()


def byte_tokenizer(vocab_size: int) -> Tokenizer:
    """One token per byte after the special ones, one merge, and unused names up to `vocab_size` (at least 259)."""
    names = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(MERGE)]
    names += [f"<unused{index}>" for index in range(vocab_size - len(names))]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[MERGE]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def write_byte_tokenizer(writer: GGUFWriter, vocab_size: int, *, cutting: str) -> None:
    """`byte_tokenizer` and the chat template as GGUF's metadata; `cutting` is llama.cpp's name of its pre-tokenizer."""
    vocabulary = json.loads(byte_tokenizer(vocab_size).to_str())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutting)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(CHAT_TEMPLATE)


def rows(
    *sequences: tuple[Sequence[int], int, Sequence[int]],
    logit_rows: Sequence[int] | None = None,
) -> StepBatch:
    """A step of sequences (new tokens, position of the first, block table); logits of all rows by default."""
    widest = max(len(table) for _, _, table in sequences)
    num_rows = sum(len(tokens) for tokens, _, _ in sequences)
    wanted = range(num_rows) if logit_rows is None else logit_rows
    return StepBatch(
        token_ids=torch.tensor([token for tokens, _, _ in sequences for token in tokens], dtype=torch.int64),
        positions=torch.tensor(
            [begin + index for tokens, begin, _ in sequences for index in range(len(tokens))], dtype=torch.int32
        ),
        row_sequences=torch.tensor(
            [index for index, (tokens, _, _) in enumerate(sequences) for _ in tokens], dtype=torch.int32
        ),
        block_tables=torch.tensor(
            [[*table, *[0] * (widest - len(table))] for _, _, table in sequences], dtype=torch.int32
        ),
        logit_rows=torch.tensor(list(wanted), dtype=torch.int64),
    )


def table_of(num_tokens: int, *, first: int = 0) -> list[int]:
    """Consecutive blocks that hold `num_tokens`."""
    return list(range(first, first + -(-num_tokens // BLOCK_SIZE)))


def random_tokens(count: int, *, vocab_size: int, seed: int = 0) -> list[int]:
    return torch.randint(0, vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def greedy(runner: Any, prompt: Sequence[int], *, num_tokens: int, num_blocks: int = 32) -> list[int]:
    """Greedy continuation of a prompt, one token per step."""
    runner.allocate_kv(num_blocks)
    table = list(range(num_blocks))
    logits = runner.forward(rows((prompt, 0, table), logit_rows=[len(prompt) - 1])).logits
    answer = [int(logits[0].argmax())]
    while len(answer) < num_tokens and answer[-1] not in runner.config.eos_token_ids:
        step = rows((answer[-1:], len(prompt) + len(answer) - 1, table))
        answer.append(int(runner.forward(step).logits[0].argmax()))
    return answer


def edit_weights(file: Path, change: Any) -> None:
    """Apply `change` to the dict of tensors in a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _save(folder: Path, tensors: Mapping[str, Tensor], num_shards: int) -> None:
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        names = list(tensors)[shard::num_shards]
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_model_len,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
