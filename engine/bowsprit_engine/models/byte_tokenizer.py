"""A tokenizer for a config without one: a token for each byte, and unused names up to the vocabulary's size.

Only for dummy weights, so that a folder of nothing but config.json can be served and measured.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import ModelError

CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def byte_tokenizer(path: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """Raises ModelError when the vocabulary of the model at `path` is too small for all bytes.

    The config's own BOS and EOS ids become special tokens, so that bytes take the ids beside them.
    """
    named = (config.bos_token_id, *config.eos_token_ids)
    special = sorted({index for index in named if index is not None and 0 <= index < config.vocab_size})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if config.vocab_size - len(special) < len(alphabet):
        raise ModelError(
            f"{path}: a vocabulary of {config.vocab_size} has no room for a token per byte ({len(alphabet)})",
            reason="UnsupportedModel",
        )
    free = (index for index in range(config.vocab_size) if index not in special)
    vocabulary = {f"<special_{index}>": index for index in special}
    vocabulary |= {character: next(free) for character in alphabet}
    vocabulary |= {f"<unused_{index}>": index for index in free}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<special_{index}>", special=True) for index in special])
    end = {"eos_token": f"<special_{config.eos_token_ids[0]}>"} if config.eos_token_ids else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=config.max_model_len,
        **end,
    )
