"""A draft model from its URI: Active, or Broken with the reason, and the engine serves either way."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models.memory import kv_bytes_per_block, weight_bytes
from bowsprit_engine.server import assembly
from bowsprit_policy.wire import DrafterState
from tiny_models import tiny_config, tiny_llama

TARGET = tiny_config()
SMALL = tiny_config(hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path / "cache"))


def settings_of(tmp_path, uri):
    return ModelSettings(model=str(tiny_llama(tmp_path / "target", TARGET)), drafter=[f"small=Model:{uri}"])


def engine_of(settings):
    return assembly.engine_of(
        settings,
        assembly.load(settings),
        model_name="tiny",
        speculation=3,
        max_waiting=8,
        on_finished=lambda _: None,
    )


def drafter_of(settings):
    (stats,) = engine_of(settings).stats().drafters
    return stats


def test_a_model_of_the_same_vocabulary_drafts_for_a_started_engine(tmp_path):
    """From a URI to drafted tokens."""
    engine = engine_of(settings_of(tmp_path, tiny_llama(tmp_path / "small", SMALL).as_uri()))
    outputs = []
    engine.start()
    engine.submit(
        Request(
            request_id="a",
            prompt_token_ids=(3, 5, 8),
            sampling=SamplingParams(seed=0, temperature=0.0, max_tokens=20, ignore_eos=True),
            speculation=SpeculationParams(),
            on_output=outputs.append,
        )
    )
    engine.stop(drain_seconds=60)

    (stats,) = engine.stats().drafters
    assert sum(len(output.token_ids) for output in outputs) == 20
    assert (stats.state, stats.drafted_tokens > 0) == (DrafterState.ACTIVE, True)


def test_a_missing_model_is_broken_and_named(tmp_path):
    """Serving doesn't depend on it."""
    stats = drafter_of(settings_of(tmp_path, tmp_path / "nowhere"))

    assert (stats.state, stats.reason) == (DrafterState.BROKEN, f"{tmp_path}/nowhere: no such file or folder")


def test_a_uri_that_names_no_place_is_broken(tmp_path):
    """Only mounted places are read."""
    stats = drafter_of(settings_of(tmp_path, "ftp://host/model"))

    assert (stats.state, "scheme 'ftp'" in stats.reason) == (DrafterState.BROKEN, True)


def test_another_vocabulary_is_broken_with_both_sizes(tmp_path):
    """A draft is token ids: they must mean the same."""
    other = tiny_llama(tmp_path / "small", dataclasses.replace(SMALL, vocab_size=290))

    stats = drafter_of(settings_of(tmp_path, other))

    assert (stats.state, stats.reason) == (
        DrafterState.BROKEN,
        f"{other}: a vocabulary of 290 tokens can't draft for the target's of 300",
    )


def test_another_tokenizer_of_the_same_size_is_broken_with_both_ids(tmp_path):
    """Two tokens swapped."""
    other = tiny_llama(tmp_path / "small", SMALL)
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(tokenizer))

    stats = drafter_of(settings_of(tmp_path, other))

    mine, theirs = sorted([vocabulary["A"], vocabulary["B"]])
    assert (stats.state, stats.reason) in [
        (DrafterState.BROKEN, f"{other}: token 'A' is {theirs}, in the target's vocabulary it is {mine}"),
        (DrafterState.BROKEN, f"{other}: token 'B' is {mine}, in the target's vocabulary it is {theirs}"),
    ]


def test_its_weights_and_its_cache_are_budgeted(tmp_path):
    """As many blocks as the target has; a cache of a given size is shared between the two."""
    settings = settings_of(tmp_path, tiny_llama(tmp_path / "small", SMALL)).model_copy(
        update={"kv_cache_memory": 300 << 10}
    )
    budget = assembly.memory_budget(settings, TARGET, itemsize=2)

    parts = {part.name: part.num_bytes for part in budget.parts}
    per_block = kv_bytes_per_block(TARGET, itemsize=2) + kv_bytes_per_block(SMALL, itemsize=2)
    assert parts["draft model"] > weight_bytes(SMALL, itemsize=2)
    assert (budget.kv_blocks, parts["KV cache"]) == ((300 << 10) // per_block, (300 << 10) // per_block * per_block)
