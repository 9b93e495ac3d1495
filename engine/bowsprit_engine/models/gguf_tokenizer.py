"""The tokenizer and chat template that a GGUF file carries, as a transformers fast tokenizer.

Byte-level BPE (SmolLM, Llama 3, Qwen, later Mistrals) and SentencePiece's BPE (Llama 2, early Mistrals).

Built here and not by transformers' own GGUF loader, which leaves SmolLM's digit splitting out (numbers then become
other tokens than the model was trained on). A pre-tokenizer that isn't in PRE_TOKENIZERS is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.gguf_metadata import Metadata

CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4  # llama.cpp's LLAMA_TOKEN_TYPE_*
SPACE = "▁"  # how SentencePiece writes one

# How the vocabularies' own tokenizers cut text before merging; llama.cpp names them in tokenizer.ggml.pre.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """How a byte-level vocabulary reads text. `ignore_merges`: a word that is a token is one, whatever merges say."""

    build: Callable[[], pre_tokenizers.PreTokenizer]
    is_nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False  # where the file doesn't say


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)


def _digits_then_byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _words(pattern: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    def build() -> pre_tokenizers.PreTokenizer:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return build


LLAMA3 = PreTokenizer(build=_words(LLAMA3_WORDS), ignore_merges=True, adds_bos=True)
QWEN2 = PreTokenizer(build=_words(QWEN2_WORDS), is_nfc=True)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": PreTokenizer(build=_byte_level),
    "smollm": PreTokenizer(build=_digits_then_byte_level),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "tekken": PreTokenizer(build=_words(TEKKEN_WORDS), ignore_merges=True, adds_bos=True),
}


def tokenizer_from(path: Path, metadata: Metadata) -> PreTrainedTokenizerBase:
    """The tokenizer that `metadata` (of the file `path`) describes. Raises ModelError."""
    kind = metadata.need("tokenizer.ggml.model")
    tokens: list[str] = metadata.need("tokenizer.ggml.tokens")
    match kind:
        case "gpt2":
            tokenizer, adds_bos = _byte_level_bpe(path, metadata, tokens)
        case "llama":
            tokenizer, adds_bos = _sentencepiece_bpe(path, metadata, tokens), True
        case _:
            raise metadata.refuse("tokenizer.ggml.model", kind)
    kinds: list[int] = metadata.need("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(_added(tokens, kinds, CONTROL_TOKEN))
    tokenizer.add_tokens(_added(tokens, kinds, USER_DEFINED_TOKEN))
    special = _special_tokens(metadata, tokens)
    said = metadata.get("tokenizer.ggml.add_bos_token")
    if (adds_bos if said is None else said) and "bos_token" in special:
        begin = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, tokens.index(begin))]
        )
    architecture = metadata.need("general.architecture")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=int(metadata.need(f"{architecture}.context_length")),
        **special,
    )


def _byte_level_bpe(path: Path, metadata: Metadata, tokens: Sequence[str]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether it begins with BOS where the file doesn't say."""
    name = metadata.get("tokenizer.ggml.pre") or "gpt-2"
    if name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{path}: tokenizer.ggml.pre={name!r} is not supported, choose one of: {', '.join(PRE_TOKENIZERS)}",
            reason="UnsupportedModel",
        )
    chosen = PRE_TOKENIZERS[name]
    pairs = (merge.partition(" ") for merge in metadata.need("tokenizer.ggml.merges"))
    merges = [(left, right) for left, _, right in pairs]
    tokenizer = _bpe(path, tokens, merges, fuse_unk=False, ignore_merges=chosen.ignore_merges)
    if chosen.is_nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = chosen.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, chosen.adds_bos


def _sentencepiece_bpe(path: Path, metadata: Metadata, tokens: Sequence[str]) -> Tokenizer:
    """Llama 2 and early Mistral: pieces with scores; a character without a piece becomes its bytes' tokens."""
    scores: list[float] = metadata.need("tokenizer.ggml.scores")
    unknown = metadata.integer("tokenizer.ggml.unknown_token_id", default=0)
    tokenizer = _bpe(
        path, tokens, merges_by_score(tokens, scores), fuse_unk=True, byte_fallback=True, unk_token=tokens[unknown]
    )
    begins_with_space = metadata.get("tokenizer.ggml.add_space_prefix") is not False
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="first" if begins_with_space else "never", split=False
    )
    strip = [decoders.Strip(content=" ", left=1)] if begins_with_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to make a piece from two others, the highest score first: SentencePiece's order of merging."""
    index_of = {token: index for index, token in enumerate(tokens)}
    found = [
        (-scores[index], index_of[token[:cut]], index_of[token[cut:]], (token[:cut], token[cut:]))
        for token, index in index_of.items()
        for cut in range(1, len(token))
        if token[:cut] in index_of and token[cut:] in index_of
    ]
    return [merge for *_, merge in sorted(found)]


def _bpe(path: Path, tokens: Sequence[str], merges: Sequence[tuple[str, str]], **options: Any) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, **options))
    except Exception as error:  # the tokenizers library raises a plain Exception for merges outside the vocabulary
        raise ModelError(f"{path}: vocabulary and merges don't fit together: {error}", reason="CorruptModel") from error


def _added(tokens: Sequence[str], kinds: Sequence[int], wanted: int) -> list[AddedToken]:
    """Tokens that are never cut: control ones are special, a user's own ones are text."""
    return [
        AddedToken(token, special=wanted == CONTROL_TOKEN, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind == wanted
    ]


def _special_tokens(metadata: Metadata, tokens: Sequence[str]) -> dict[str, str]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: tokens[index] for name, index in ids.items() if index is not None and 0 <= index < len(tokens)}
