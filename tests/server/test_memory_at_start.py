"""An engine that can't fit into memory is refused before its weights are read, and `inspect` shows the budget."""

import pytest
import torch

from bowsprit_engine.core.memory_budget import GIB, MemoryLimit
from bowsprit_engine.errors import WorldError
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models.memory import largest_head_bytes
from bowsprit_engine.server import assembly
from bowsprit_engine.server.inspection import print_model
from bowsprit_engine.speculation.drafters import ngram, suffix
from tiny_models import tiny_config, tiny_llama


@pytest.fixture
def limit(monkeypatch):
    """Sets the machine's memory."""

    def set_to(num_bytes):
        limit = MemoryLimit(num_bytes=num_bytes, source="the container's memory limit")
        monkeypatch.setattr("bowsprit_engine.server.memory_plan.memory_limit", lambda device: limit)

    return set_to


def settings(folder, **changes):
    return ModelSettings(model=str(folder), device="cpu", backend="torch", **changes)


def test_a_model_that_cannot_fit_is_refused_before_a_weight_is_read(tmp_path, limit):
    """Its weights file is damaged beyond the header, and nobody notices: the memory is what is missing."""
    limit(GIB // 2)
    file = tiny_llama(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    with pytest.raises(WorldError) as refused:
        assembly.load(settings(tmp_path, max_batch_size=1024, draft_tokens_max=64))

    assert refused.value.reason == "InsufficientMemory"
    for name in ("weights", "KV cache", "drafter head", "workspace", "process 384 MiB", "limit is 512 MiB"):
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("drafters", "expected"),
    [
        ([], {}),
        (["ngram=NGram"], {"drafter ngram": 8 * 256 * ngram.BYTES_PER_LIVE_TOKEN}),
        (["suffix=Suffix"], {"drafter suffix": suffix.memory(live_tokens=8 * 256)[0]}),
        (
            ["one=Head", "two=Head"],
            dict.fromkeys(("drafter one", "drafter two"), 3 * largest_head_bytes(tiny_config())),
        ),
    ],
)
def test_each_drafter_is_budgeted_by_what_it_keeps(tmp_path, limit, drafters, expected):
    """A head three times: who serves, its shadow, and one that is being loaded. Look-up by what it follows, 8
    sequences of 256 tokens, and the answers it remembers.
    """
    limit(2 * GIB)
    tiny_llama(tmp_path, tiny_config())
    budget = assembly.memory_budget(settings(tmp_path, drafter=drafters), tiny_config(), itemsize=2)
    assert {part.name: part.num_bytes for part in budget.parts if part.name.startswith("drafter")} == expected


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("torch", set()), ("triton", {"CUDA graphs"}), ("auto", {"CUDA graphs"})],
)
def test_beside_a_gpu_look_up_takes_none_of_its_memory(tmp_path, limit, monkeypatch, backend, expected):
    """It is in the host's. Triton's steps are captured there, which torch's aren't."""
    limit(2 * GIB)
    tiny_llama(tmp_path, tiny_config())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    drafters = ["ngram=NGram", "suffix=Suffix", "head=Head"]

    wanted = ModelSettings(model=str(tmp_path), device="cuda:0", backend=backend, drafter=drafters)
    budget = assembly.memory_budget(wanted, tiny_config(), itemsize=2)

    assert {part.name for part in budget.parts} == {"weights", "KV cache", "drafter head", "workspace"} | expected


def test_the_blocks_that_were_budgeted_are_those_that_the_engine_gets(tmp_path, limit):
    """256 tokens of 8 sequences in blocks of 16, and a smaller cache where one is asked for."""
    limit(2 * GIB)
    tiny_llama(tmp_path, tiny_config())
    expected = {None: 128, "100Ki": 25}

    for memory, blocks in expected.items():
        wanted = settings(tmp_path, **({} if memory is None else {"kv_cache_memory": memory}))
        budget = assembly.memory_budget(wanted, tiny_config(), itemsize=2)
        assert budget.kv_blocks == blocks


def test_inspect_shows_the_model_its_memory_and_that_weights_are_random(tmp_path, limit, capsys):
    """One line each, the digest whole."""
    limit(2 * GIB)
    model = assembly.load(settings(tiny_llama(tmp_path)))
    print_model(settings(tmp_path, load_format="dummy"))
    print_model(settings(tmp_path))
    printed = capsys.readouterr().out

    assert f"digest                    {model.digest}" in printed
    assert "weights                   RANDOM (--load-format dummy)" in printed
    assert "weights                   the model's own" in printed
    assert "memory, KV cache          " in printed
    assert "memory, tokenizer         0 MiB (300 tokens, for texts and for grammars)" in printed
    assert "memory, grammars          256 MiB (lexers of 8 sequences, 16 MiB each" in printed
    assert "of 2.00 GiB, the container's memory limit" in printed
    assert "sliding window            none" in printed


def test_inspect_says_how_much_is_missing(tmp_path, limit, capsys):
    """The parts are printed before the refusal."""
    limit(300 << 20)

    with pytest.raises(WorldError, match="the engine needs"):
        print_model(settings(tiny_llama(tmp_path)))

    assert "memory, process           384 MiB" in capsys.readouterr().out
