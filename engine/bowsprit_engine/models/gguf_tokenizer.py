"""The byte-level BPE tokenizer and chat template that a GGUF file carries, as a transformers fast tokenizer.

Built here and not by transformers' own GGUF loader, which leaves SmolLM's digit splitting out (numbers then become
other tokens than the model was trained on). A pre-tokenizer that isn't in PRE_TOKENIZERS is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.gguf import Metadata

CONTROL_TOKEN = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL
BYTE_LEVEL_BPE = "gpt2"


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)


def _digits_then_byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


PRE_TOKENIZERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _byte_level,
    "smollm": _digits_then_byte_level,
}


def tokenizer_from(path: Path, metadata: Metadata) -> PreTrainedTokenizerBase:
    """The tokenizer that `metadata` (of the file `path`) describes. Raises ModelError."""
    kind = metadata.need("tokenizer.ggml.model")
    if kind != BYTE_LEVEL_BPE:
        raise metadata.refuse("tokenizer.ggml.model", kind)
    pre = metadata.get("tokenizer.ggml.pre") or "gpt-2"
    if pre not in PRE_TOKENIZERS:
        raise ModelError(
            f"{path}: tokenizer.ggml.pre={pre!r} is not supported, choose one of: {', '.join(PRE_TOKENIZERS)}",
            reason="UnsupportedModel",
        )
    tokens: list[str] = metadata.need("tokenizer.ggml.tokens")
    kinds: list[int] = metadata.need("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in metadata.need("tokenizer.ggml.merges")]
    try:
        tokenizer = Tokenizer(
            models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges, fuse_unk=False)
        )
    except Exception as error:  # the tokenizers library raises a plain Exception for merges outside the vocabulary
        raise ModelError(f"{path}: vocabulary and merges don't fit together: {error}", reason="CorruptModel") from error
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind_of in zip(tokens, kinds, strict=True) if kind_of == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=int(metadata.need("llama.context_length")),
        **_special_tokens(metadata, tokens),
    )


def _special_tokens(metadata: Metadata, tokens: list[str]) -> dict[str, str]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: tokens[index] for name, index in ids.items() if index is not None and 0 <= index < len(tokens)}
