"""Tokenizers from GGUF metadata against transformers' own reading of the same metadata, on text that is hard to cut."""

import json

import pytest
from gguf import GGUFReader, GGUFWriter
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS, convert_gguf_tokenizer

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.gguf_metadata import Metadata
from bowsprit_engine.models.gguf_tokenizer import tokenizer_from

SPECIAL = ("<unk>", "<s>", "</s>", "<tool>")
KINDS = {"<unk>": 2, "<s>": 3, "</s>": 3, "<tool>": 4}  # unknown, control, control, user-defined
CORPUS = [
    "The ship's bowsprit isn't 12345 feet; they'll say: it WAS 3.14 x 10^6!\n\n",
    "def f(x):\n    return {'a': x, \"b\": [1, 22, 333]}\r\n\tpass  # naïve café, Straße, ŁÓDŹ CamelCaseWords\n",
    "日本語のテキスト 그리고 한국어 и русский текст, العربية 🙂🚢\n",
] * 40
TEXTS = [
    *CORPUS[:3],
    "  two spaces, then\ttab   and trailing  ",
    "I'LL don't We'Ve 1234567890 12 a1b2",
    "e\u0301 is not é; ﬁ; x²; ½; Ⅻ",
    "plain <s>special</s> and <tool>call",
    "\n\n \n x",
    "",
]


def byte_level_vocabulary(pattern):
    """Tokens and merges of a small BPE that was trained behind the split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def sentencepiece_vocabulary():
    """Pieces over ▁, after one token for each byte."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokens, _ = _trained(tokenizer, [])
    return [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *(t for t in tokens if t not in SPECIAL)]


def _trained(tokenizer, alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=list(SPECIAL), initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__), json.loads(tokenizer.to_str())["model"]["merges"]


def write(path, *, kind, tokens, pre=None, merges=None, scores=None, add_bos=None):
    """A GGUF file of nothing but a tokenizer."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(100)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([KINDS.get(token, 1) for token in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    if merges is not None:
        writer.add_token_merges([" ".join(merge) for merge in merges])
    if scores is not None:
        writer.add_token_scores(scores)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    return tokenizer_from(path, Metadata(path, GGUFReader(path)))


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3", "qwen2", "deepseek-r1-qwen", "tekken"])
def test_a_byte_level_tokenizer_cuts_text_as_transformers_reads_the_file(tmp_path, pre):
    """Ids of text with digits, contractions, newlines and several scripts; and the text comes back."""
    tokens, merges = byte_level_vocabulary(GGUF_PRE_TOKENIZER_SPLITS[pre])
    tokenizer = read(write(tmp_path / "m.gguf", kind="gpt2", pre=pre, tokens=tokens, merges=merges))
    stated = {
        "tokenizer_type": "gpt2",
        "pre_tokenizer_type": pre,
        "tokens": tokens,
        "merges": [" ".join(merge) for merge in merges],
        "token_type": [KINDS.get(token, 1) for token in tokens],
    }
    reference, _ = convert_gguf_tokenizer("llama", stated)

    for text in TEXTS:
        is_changed = pre in ("qwen2", "deepseek-r1-qwen") and "\u0301" in text  # NFC, as Qwen's own tokenizer.json
        if not is_changed:
            assert ids(tokenizer, text) == reference.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids(tokenizer, text)) == text


def test_qwen_composes_characters_first(tmp_path):
    """Its own tokenizer.json has the NFC normaliser."""
    tokens, merges = byte_level_vocabulary(GGUF_PRE_TOKENIZER_SPLITS["qwen2"])
    tokenizer = read(write(tmp_path / "m.gguf", kind="gpt2", pre="qwen2", tokens=tokens, merges=merges))

    assert ids(tokenizer, "cafe\u0301") == ids(tokenizer, "café")


def test_a_word_that_is_a_token_is_one_whatever_the_merges_say(tmp_path):
    """Llama 3's vocabulary holds words that its merges don't reach."""
    tokens, merges = byte_level_vocabulary(GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"])
    tokens.append("zqzqz")
    by_name = {
        pre: read(write(tmp_path / f"{pre}.gguf", kind="gpt2", pre=pre, tokens=tokens, merges=merges))
        for pre in ("llama-bpe", "qwen2")
    }

    assert ids(by_name["llama-bpe"], "zqzqz") == [len(tokens) - 1]
    assert len(ids(by_name["qwen2"], "zqzqz")) > 1


def test_a_sentencepiece_tokenizer_is_rebuilt_from_its_scores(tmp_path):
    """Merges by score, bytes for characters without a piece; and the text comes back."""
    tokens = sentencepiece_vocabulary()
    scores = [0.0 if index < 260 else -float(index) for index in range(len(tokens))]
    tokenizer = read(write(tmp_path / "m.gguf", kind="llama", tokens=tokens, scores=scores))
    stated = {
        "tokenizer_type": "llama",
        "tokens": tokens,
        "scores": scores,
        "token_type": [KINDS.get(token, 1) for token in tokens],
    }
    reference, _ = convert_gguf_tokenizer("llama", stated)

    for text in [*TEXTS, "☃ has no piece"]:
        assert ids(tokenizer, text) == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids(tokenizer, "☃ has no piece, 🙂 neither")) == "☃ has no piece, 🙂 neither"


@pytest.mark.parametrize(
    ("pre", "said", "expected"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)],
)
def test_a_prompt_begins_with_bos_where_the_file_or_its_vocabulary_says_so(tmp_path, pre, said, expected):
    """Only when special tokens are asked for: a chat template writes its own."""
    tokens, merges = byte_level_vocabulary(GGUF_PRE_TOKENIZER_SPLITS[pre])
    tokenizer = read(write(tmp_path / "m.gguf", kind="gpt2", pre=pre, tokens=tokens, merges=merges, add_bos=said))

    assert (tokenizer("x").input_ids[0] == 1) is expected
    assert tokenizer("x", add_special_tokens=False).input_ids[0] != 1


@pytest.mark.parametrize(
    ("kind", "pre", "cause"),
    [
        ("gpt2", "falcon", "tokenizer.ggml.pre='falcon' is not supported, choose one of: gpt-2, smollm, llama-bpe"),
        ("t5", None, "tokenizer.ggml.model='t5'"),
    ],
)
def test_another_tokenizer_is_refused_by_name(tmp_path, kind, pre, cause):
    """Text that is cut otherwise would be other tokens than the model was trained on."""
    with pytest.raises(ModelError) as refused:
        read(write(tmp_path / "m.gguf", kind=kind, pre=pre, tokens=list(SPECIAL), merges=[("a", "b")]))

    assert cause in str(refused.value)
