"""How much memory there is, and what an engine plans to take of it before it reads a weight."""

import dataclasses

import pytest

from bowsprit_engine.core.lexers import lexer_bytes
from bowsprit_engine.core.memory_budget import GIB, MIB, MemoryLimit, MemoryPart
from bowsprit_engine.errors import WorldError
from bowsprit_engine.models.step_graphs import BUCKETS
from bowsprit_engine.server.grammars import MAX_LIVE_BYTES
from bowsprit_engine.server.memory_limit import cgroup_limit, memory_limit
from bowsprit_engine.server.memory_plan import plan_memory
from tiny_models import tiny_config

LLAMA_8B = tiny_config(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_model_len=8192,
    tie_word_embeddings=False,
)


def plan(config=LLAMA_8B, *, limit, device="cpu", kv_cache_memory=None, max_batch_size=8, has_graphs=False):
    return plan_memory(
        config,
        itemsize=2,
        device=device,
        max_batch_size=max_batch_size,
        prefill_chunk=256,
        draft_tokens_max=8,
        kv_cache_memory=kv_cache_memory,
        drafters=[MemoryPart(name="drafter head", num_bytes=10 * MIB, detail="weights")],
        has_graphs=has_graphs,
        limit=MemoryLimit(num_bytes=limit, source="a limit"),
    )


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, GIB),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/memory.max": "2147483648", "a/b/memory.max": "max"}, 2 * GIB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "1073741824"}, GIB),
        (
            "5:cpu:/x\n4:memory:/pods/one\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/pods/one/memory.limit_in_bytes": "3221225472",
                "memory/x/memory.limit_in_bytes": "1",
            },
            3 * GIB,
        ),
        ("garbage", {}, None),
    ],
)
def test_the_tightest_memory_limit_of_either_cgroup_version_holds(tmp_path, own, files, expected):
    """At the mount's root, as containers see it, and along the path, as the host does."""
    for name, text in (files | {"own": own}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert cgroup_limit(tmp_path, tmp_path / "own") == expected


def test_without_a_cgroup_limit_the_machines_memory_is_the_limit(monkeypatch):
    """A number above any machine's is v1's way to say unlimited."""
    monkeypatch.setattr("bowsprit_engine.server.memory_limit.cgroup_limit", lambda: 1 << 62)
    machine = memory_limit("cpu")
    monkeypatch.setattr("bowsprit_engine.server.memory_limit.cgroup_limit", lambda: 1 << 20)

    assert machine.source == "the machine's memory"
    assert memory_limit("cpu") == MemoryLimit(num_bytes=1 << 20, source="the container's memory limit")


def test_every_part_is_in_the_budget():
    """Llama 3.1 8B: 8,030 million parameters in 15 GiB, a block of 16 tokens in 2 MiB."""
    budget = plan(limit=80 * GIB, device="cuda", kv_cache_memory=8 * GIB)
    sizes = {part.name: part.num_bytes for part in budget.parts}

    assert list(sizes) == ["weights", "KV cache", "drafter head", "workspace"]
    assert sizes["weights"] == pytest.approx(8_030_261_248 * 2 + 8192 * 128 * 4, rel=1e-4)
    assert (budget.kv_blocks, sizes["KV cache"]) == (4096, 8 * GIB)
    assert "8030.3 M parameters" in str(budget)


def test_what_is_always_in_the_hosts_memory_counts_where_that_is_the_limit():
    """A tokenizer of 128,256 tokens, and grammars by the sequences that run: 31 MiB each, and 128 for all requests."""
    few, many = (
        {part.name: part.num_bytes for part in plan(limit=80 * GIB, max_batch_size=size).parts} for size in (1, 8)
    )

    assert few["tokenizer"] == many["tokenizer"] == 128_256 * 1150
    assert many["grammars"] - few["grammars"] == 7 * lexer_bytes(128_256)
    assert few["grammars"] - lexer_bytes(128_256) == MAX_LIVE_BYTES == 128 * MIB


def test_graphs_of_steps_are_in_the_budget_by_their_rows_and_the_vocabulary():
    """0.9 GiB of logits for all graphs together; the buffers of the widest step once."""
    without, with_graphs = (plan(limit=80 * GIB, device="cuda", has_graphs=has_graphs) for has_graphs in (False, True))
    (graphs,) = set(with_graphs.parts) - set(without.parts) - {with_graphs.parts[1]}
    logits = sum(BUCKETS) * 128_256 * 4

    assert graphs.name == "CUDA graphs"
    assert logits < graphs.num_bytes < 1.3 * logits
    assert graphs.detail == f"logits of {sum(BUCKETS)} rows in {len(BUCKETS)} graphs, a step of 512"


def test_an_automatic_cache_takes_its_share_of_what_the_others_leave():
    """On a GPU nine tenths, on a CPU a quarter; a full batch of full sequences at most."""
    on_gpu, on_cpu = plan(limit=20 * GIB, device="cuda"), plan(limit=32 * GIB)
    others = sum(part.num_bytes for part in on_gpu.parts if part.name != "KV cache")

    assert on_gpu.kv_blocks == int((20 * GIB - others) * 0.9) // (2 * MIB)
    assert on_cpu.num_bytes < 32 * GIB
    assert "process" in {part.name for part in on_cpu.parts}
    assert plan(limit=800 * GIB, device="cuda").kv_blocks == 8 * 8192 // 16


def test_a_model_that_cannot_fit_is_refused_with_every_part():
    """Before anything is allocated."""
    with pytest.raises(WorldError) as refused:
        plan(limit=12 * GIB).check()

    for name in (
        "weights 14.9",
        "KV cache 1.00 GiB",
        "drafter head 10 MiB (weights)",
        "workspace",
        "process 384 MiB",
        "a limit is 12",
    ):
        assert name in str(refused.value)


def test_one_full_sequence_is_the_least_that_is_planned():
    """A long context on a small device: the refusal says what it would take."""
    long = dataclasses.replace(LLAMA_8B, max_model_len=131072)
    budget = plan(long, limit=24 * GIB, device="cuda")

    assert budget.kv_blocks == 131072 // 16
    with pytest.raises(WorldError, match=r"KV cache 16\.00 GiB \(8192 blocks of 16; 8 sequences of 131072 would fill"):
        budget.check()
