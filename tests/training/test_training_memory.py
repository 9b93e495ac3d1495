"""What a training run is planned to take, and that it doesn't begin where it wouldn't fit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from bowsprit_engine.capture import schema
from bowsprit_engine.config import TrainSettings
from bowsprit_engine.core.memory_budget import MIB, MemoryLimit, MemorySum
from bowsprit_engine.errors import WorldError
from bowsprit_engine.models.memory import weight_bytes
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.training import job, memory_plan
from bowsprit_engine.training.head import HeadShape, RecurrentHead
from bowsprit_engine.training.memory_plan import (
    BYTES_PER_CAPTURED_TOKEN,
    BYTES_PER_DRAFT,
    BYTES_PER_DRAFTED_TOKEN,
    COPIES_OF_HEAD,
    plan_memory,
)
from bowsprit_policy.wire import TrainingResult
from training.learnable import EPS, HIDDEN, VOCAB, LearnableRunner, recorded, target_rows, write_shard

PARTS = (
    "weights", "workspace", "KV cache", "head", "vocabulary", "batch", "judging", "token ids", "captured traffic",
    "process",
)  # fmt: skip


def planned(
    runner: LearnableRunner,
    *,
    longest: int = 100,
    captured_tokens: int = 10_000,
    judged_tokens: int = 1_000,
    trained_tokens: int = 4_000,
    limit: int = 2048 * MIB,
) -> MemorySum:
    return plan_memory(
        runner.config,
        itemsize=2,
        longest=longest,
        captured_tokens=captured_tokens,
        judged_tokens=judged_tokens,
        trained_tokens=trained_tokens,
        rows_per_batch=256,
        draft_tokens=4,
        limit=MemoryLimit(num_bytes=limit, source="the container's memory limit"),
    )


def test_a_plan_that_does_not_fit_is_refused_naming_each_part(runner: LearnableRunner) -> None:
    """With the sum and the limit."""
    with pytest.raises(WorldError) as raised:
        planned(runner, limit=500 * MIB).check()
    assert raised.value.reason == "InsufficientMemory"
    for words in (*PARTS, "the container's memory limit is 500 MiB", "process 512 MiB", "one request of 100 tokens"):
        assert words in str(raised.value)


def test_one_byte_decides(runner: LearnableRunner) -> None:
    """Exactly the sum fits."""
    needed = planned(runner).num_bytes
    planned(runner, limit=needed).check()
    with pytest.raises(WorldError):
        planned(runner, limit=needed - 1).check()


def test_parts_follow_from_the_model_and_the_traffic(runner: LearnableRunner) -> None:
    """Weights as they are loaded, five copies of a head's weights, and what a longer request and more traffic add."""
    parts = {part.name: part.num_bytes for part in planned(runner).parts}
    assert tuple(parts) == PARTS
    assert parts["weights"] == weight_bytes(runner.config, itemsize=2)
    shape = HeadShape(hidden_size=HIDDEN, intermediate_size=HIDDEN, rms_norm_eps=EPS)
    head = RecurrentHead(shape, target_rows(runner, torch.arange(VOCAB)))
    in_head = sum(4 * weight.numel() for weight in head.parameters() if weight.dim() == 2)
    assert parts["head"] == COPIES_OF_HEAD * in_head
    longer = {part.name: part.num_bytes for part in planned(runner, longest=200, captured_tokens=20_000).parts}
    changed = {name for name in parts if longer[name] != parts[name]}
    assert changed == {"KV cache", "batch", "captured traffic"}


def test_tokens_that_are_learned_from_and_judged_by_are_in_the_plan(runner: LearnableRunner) -> None:
    """Eight bytes for each, and what two heads draft at every judged one."""
    parts, learned, judged = (
        {part.name: part.num_bytes for part in planned(runner, **counts).parts}
        for counts in ({}, {"trained_tokens": 5_000}, {"judged_tokens": 2_000})
    )
    assert {name: learned[name] - parts[name] for name in parts if learned[name] != parts[name]} == {"token ids": 8_000}
    added = {name: judged[name] - parts[name] for name in parts if judged[name] != parts[name]}
    assert added == {"token ids": 8_000, "judging": 1_000 * (2 * (144 + 4 * 72) + 36)}


@pytest.mark.parametrize("draft_tokens", [1, 4, 8])
def test_drafts_at_judged_tokens_take_no_more_than_is_planned(draft_tokens: int) -> None:
    """As a head gives them: tokens and how sure it is of each."""
    chance = np.random.default_rng(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        drafts = [
            Draft(
                token_ids=tuple(chance.integers(1_000, 49_152, size=draft_tokens).tolist()),
                confidences=tuple(chance.random(draft_tokens).tolist()),
            )
            for _ in range(2_000)
        ]
        per_draft = (tracemalloc.get_traced_memory()[0] - before) / len(drafts)
    finally:
        tracemalloc.stop()
    planned_bytes = BYTES_PER_DRAFT + draft_tokens * BYTES_PER_DRAFTED_TOKEN
    assert 0.8 * planned_bytes < per_draft < planned_bytes


def test_states_of_more_requests_need_no_more_memory(runner: LearnableRunner) -> None:
    """They are on the disk: ten times the traffic adds its tokens alone."""
    few, many = (planned(runner, captured_tokens=count).num_bytes for count in (100_000, 1_000_000))
    assert many - few == 900_000 * BYTES_PER_CAPTURED_TOKEN


def test_a_run_in_too_small_a_container_is_refused_before_weights_are_read(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result names what it takes; nothing is written."""
    write_shard(resolve_uri(settings.capture_uri), recorded(runner, 120))
    limit = MemoryLimit(num_bytes=256 * MIB, source="the container's memory limit")
    monkeypatch.setattr("bowsprit_engine.training.run.memory_limit", lambda device: limit)
    monkeypatch.setattr("training.learnable.LearnableModel.load", lambda model: pytest.fail("loaded"))
    assert job.run(settings) == 1
    assert settings.termination_log is not None
    result = TrainingResult.model_validate_json(settings.termination_log.read_text())
    assert result.reason == "InsufficientMemory"
    assert "the container's memory limit is 256 MiB: weights 0 MiB" in result.message
    assert "captured traffic 0 MiB (1920 tokens" in result.message


def test_traffic_that_would_not_fit_is_refused_before_it_is_read(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens stand in the shards' footers; those of another model aren't counted."""
    folder = resolve_uri(settings.capture_uri)
    write_shard(folder, recorded(runner, 120))
    write_shard(folder, recorded(runner, 60), digest="e" * 64)
    monkeypatch.setattr(memory_plan, "BYTES_PER_CAPTURED_TOKEN", MIB)
    limit = MemoryLimit(num_bytes=1024 * MIB, source="the container's memory limit")
    monkeypatch.setattr("bowsprit_engine.training.run.memory_limit", lambda device: limit)
    monkeypatch.setattr(schema, "decode", lambda content: pytest.fail("read"))
    assert job.run(settings) == 1
    assert settings.termination_log is not None
    result = TrainingResult.model_validate_json(settings.termination_log.read_text())
    assert result.reason == "InsufficientMemory"
    assert "captured traffic 1.88 GiB (1920 tokens; --max-tokens reads fewer)" in result.message
