"""The same model from every file format, its digest and its dummy twin."""

import pytest
import torch

from bowsprit_engine.models import load_model, open_model
from bowsprit_engine.models.digest import file_sha256
from bowsprit_engine.models.gguf import GgufCheckpoint
from bowsprit_engine.models.random_weights import RandomCheckpoint
from tiny_models import edit_weights, random_tokens, rows, table_of, tiny_config, tiny_gguf, tiny_llama


@pytest.fixture(autouse=True)
def cache_dir(monkeypatch, tmp_path_factory):
    """Digests of other tests' files stay out of the user's cache. The native library is found beside it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(folder))
    return folder


def logits_of(model):
    prompt = random_tokens(40, vocab_size=model.config.vocab_size)
    model.runner.allocate_kv(8)
    return model.runner.forward(rows((prompt, 0, table_of(40)))).logits


def test_gguf_gives_back_the_tensors_that_were_converted(tmp_path):
    """Names, shapes and the order of query and key rows are Hugging Face's again."""
    config = tiny_config(num_heads=6, num_kv_heads=2, head_dim=32)
    expected = RandomCheckpoint(tmp_path, config)

    read = GgufCheckpoint(tiny_gguf(tmp_path / "m.gguf", config))

    assert set(expected.names()) == set(read.names())
    assert all(torch.equal(expected.tensor(name), read.tensor(name)) for name in expected.names())


def test_every_format_gives_the_same_logits(tmp_path):
    """One file, shards, and GGUF."""
    single = load_model(tiny_llama(tmp_path / "single"), backend="torch", dtype="float32")
    sharded = load_model(tiny_llama(tmp_path / "sharded", num_shards=3), backend="torch", dtype="float32")
    gguf = load_model(tiny_gguf(tmp_path / "m.gguf"), backend="torch", dtype="float32")

    expected = logits_of(single)

    assert torch.equal(expected, logits_of(sharded))
    assert torch.equal(expected, logits_of(gguf))
    assert single.config == gguf.config


def test_an_untied_head_is_read_from_every_format(tmp_path):
    """Its own tensor, not the embedding."""
    config = tiny_config(tie_word_embeddings=False)
    folder = load_model(tiny_llama(tmp_path / "folder", config), backend="torch", dtype="float32")
    gguf = load_model(tiny_gguf(tmp_path / "m.gguf", config), backend="torch", dtype="float32")

    assert torch.equal(logits_of(folder), logits_of(gguf))
    assert not torch.equal(folder.runner.lm_head_rows(torch.arange(4)), folder.runner.embed(torch.arange(4)))


def test_the_digest_follows_content_and_not_place(tmp_path):
    """A copy has the same one; other weights, another config and another tokenizer have others."""
    expected = load_model(tiny_llama(tmp_path / "a"), backend="torch").digest
    edited = tiny_llama(tmp_path / "edited")
    edit_weights(edited / "model.safetensors", lambda tensors: tensors["model.norm.weight"].mul_(1.001))
    other_tokenizer = tiny_llama(tmp_path / "tokenizer")
    (other_tokenizer / "tokenizer_config.json").write_text("{}")
    other_config = tiny_llama(tmp_path / "config", config_changes={"rms_norm_eps": 1e-6})

    assert expected == load_model(tiny_llama(tmp_path / "copy"), backend="torch").digest
    assert expected == load_model(tmp_path / "a", backend="torch", max_model_len=100, dtype="float32").digest
    others = {load_model(path, backend="torch").digest for path in (edited, other_tokenizer, other_config)}
    assert len({expected, *others}) == 4


def test_a_files_hash_is_computed_once(tmp_path, cache_dir):
    """The second time it comes from the cache, until size or mtime change; a broken entry is computed anew."""
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert expected == file_sha256(file)

    (entry,) = (cache_dir / "sha256").iterdir()
    entry.write_text("f" * 64)
    assert file_sha256(file) == "f" * 64
    entry.write_text("half")
    assert expected == file_sha256(file)
    file.write_bytes(b"abcd")
    assert expected != file_sha256(file)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    """Read-only containers load models too."""
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path / "taken"))
    file = tmp_path / "weights"
    file.write_bytes(b"abc")

    assert file_sha256(file).startswith("ba7816bf")


def test_dummy_weights_need_no_weight_files(tmp_path):
    """The config and the tokenizer are read, the weights are the same on every load."""
    (tiny_llama(tmp_path, seed=5) / "model.safetensors").unlink()

    first = load_model(tmp_path, backend="torch", load_format="dummy")
    again = load_model(tmp_path, backend="torch", load_format="dummy")

    assert torch.equal(logits_of(first), logits_of(again))
    assert first.digest == again.digest


def test_a_config_alone_is_a_dummy_model_and_the_log_says_so(tmp_path, caplog):
    """No weights, no tokenizer: bytes are tokens, and what it answers is declared meaningless."""
    tiny_llama(tmp_path)
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()

    model = load_model(tmp_path, backend="torch", load_format="dummy")
    ids = model.tokenizer("Straße 12\n").input_ids

    assert logits_of(model).shape == (40, 300)
    assert model.tokenizer.decode(ids) == "Straße 12\n"
    assert len(ids) == len("Straße 12\n".encode())
    assert not {0, 1} & set(ids)
    assert (model.tokenizer.eos_token_id, len(model.tokenizer)) == (0, 300)
    assert "the weights are RANDOM (load format dummy)" in caplog.text


def test_real_weights_are_not_announced_as_random(tmp_path, caplog):
    """The warning means something."""
    load_model(tiny_llama(tmp_path), backend="torch")

    assert "RANDOM" not in caplog.text


def test_an_opened_model_has_read_no_weights(tmp_path):
    """Its config and names are checked; the tensors come with `load`."""
    folder = tiny_llama(tmp_path)
    expected = logits_of(load_model(folder, backend="torch", dtype="float32"))

    opened = open_model(folder, backend="torch", dtype="float32")

    assert (opened.config, opened.options.backend, opened.options.dtype) == (tiny_config(), "torch", torch.float32)
    assert torch.equal(expected, logits_of(opened.load()))


def test_a_shorter_context_narrows_the_config(tmp_path):
    """max_model_len is what the engine will serve, not what the model could."""
    model = load_model(tiny_llama(tmp_path), backend="torch", max_model_len=64)

    assert (model.config.max_model_len, model.runner.config.max_model_len) == (64, 64)


@pytest.mark.parametrize("path", ["folder", "m.gguf"])
def test_the_tokenizer_has_its_chat_template_and_gives_text_back(tmp_path, path):
    """From a folder and from GGUF metadata."""
    tiny_llama(tmp_path / "folder")
    tiny_gguf(tmp_path / "m.gguf")
    tokenizer = load_model(tmp_path / path, backend="torch").tokenizer
    text = "Straße 12: naïve café, 3.14 ≈ π 🙂\n\tend"

    assert text == tokenizer.decode(tokenizer(text).input_ids)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered == "<|start|>user\nhi<|end|>"
    assert tokenizer.eos_token_id == 0
