"""GGUF of every family, written with the `gguf` package as llama.cpp's converter does, against transformers' model."""

import dataclasses

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models import load_model
from bowsprit_engine.models.config_hf import read_config
from bowsprit_engine.models.gguf import GgufCheckpoint
from gguf_models import gguf_of
from hf_models import FAMILIES, logits_of, random_model, save
from tiny_models import random_tokens, rows

TOLERANCE = {"rtol": 1e-4, "atol": 5e-5}  # as in test_families.py
NUM_TOKENS = 150
BY_FOLDER_ONLY = {"qwen2, yarn"}  # its own attention factor has no settled key in GGUF


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BY_FOLDER_ONLY])
def test_a_gguf_gives_the_logits_of_transformers_model(tmp_path, name):
    """Rows are put back where llama.cpp permutes them, and left alone where it doesn't."""
    model = random_model(name)
    config = read_config(save(model, tmp_path / "folder"))
    prompt = random_tokens(NUM_TOKENS, vocab_size=300)
    loaded = load_model(gguf_of(model, config, tmp_path / "m.gguf"), backend="torch", dtype="float32")
    loaded.runner.allocate_kv(10)

    actual = loaded.runner.forward(rows((prompt, 0, list(range(10))))).logits

    torch.testing.assert_close(actual, logits_of(model, prompt), **TOLERANCE)
    expected = dataclasses.replace(config, rope_scaling=None, eos_token_ids=(0,))
    assert dataclasses.replace(loaded.config, rope_scaling=None) == expected


QUANTISABLE = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


@pytest.mark.parametrize("kind", QUANTISABLE)
def test_quantised_matrices_are_what_the_package_dequantises(tmp_path, kind):
    """Of the permuted rows, put back afterwards."""
    quantisation = GGMLQuantizationType[kind]
    model = random_model("smollm", changes={"hidden_size": 288, "intermediate_size": 320})
    config = read_config(save(model, tmp_path / "folder"))
    read = GgufCheckpoint(gguf_of(model, config, tmp_path / "m.gguf", quantisation=quantisation))

    for part in ("self_attn.v_proj", "mlp.down_proj"):
        weight = model.state_dict()[f"model.layers.1.{part}.weight"].numpy()
        expected = gguf.dequantize(gguf.quantize(weight, quantisation), quantisation)
        assert np.array_equal(expected, read.tensor(f"model.layers.1.{part}.weight").numpy())
    key = model.state_dict()["model.layers.0.self_attn.k_proj.weight"]
    torch.testing.assert_close(read.tensor("model.layers.0.self_attn.k_proj.weight"), key, rtol=0, atol=0.05)


K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


@pytest.mark.parametrize("kind", K_QUANTS)
def test_quantisations_that_the_package_only_reads_have_their_shape_and_values(tmp_path, kind):
    """Blocks of random bytes: whatever they mean to the package, they mean here."""
    quantisation = GGMLQuantizationType[kind]
    sizes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 259}
    model = random_model("qwen2", changes=sizes)
    config = read_config(save(model, tmp_path / "folder"))
    block_size, type_size = gguf.GGML_QUANT_SIZES[quantisation]
    blocks = np.random.default_rng(0).integers(0, 60, (256, 512 // block_size * type_size), dtype=np.uint8)

    def replace_down(writer):
        add = writer.add_tensor

        def add_tensor(name, data, raw_dtype=None):
            is_down = name == "blk.1.ffn_down.weight"
            add(name, blocks if is_down else data, raw_dtype=quantisation if is_down else raw_dtype)

        writer.add_tensor = add_tensor

    read = GgufCheckpoint(gguf_of(model, config, tmp_path / "m.gguf", changes=replace_down))

    actual = read.tensor("model.layers.1.mlp.down_proj.weight").numpy()
    assert actual.shape == (256, 512)
    assert np.array_equal(actual, gguf.dequantize(blocks, quantisation), equal_nan=True)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "scaling.type='longrope'"),
        (lambda writer: writer.add_rope_scaling_yarn_attn_factor(1.5), "yarn_attn_factor=1.5"),
        (lambda writer: writer.add_rope_dimension_sections([1, 2, 3, 4]), "rope.dimension_sections=[1, 2, 3, 4]"),
        (lambda writer: writer.add_logit_scale(0.5), "qwen3.logit_scale=0.5"),
        (lambda writer: writer.add_value_length(64), "qwen3.attention.value_length=64"),
        (lambda writer: writer.add_feed_forward_length([96, 96]), "qwen3.feed_forward_length=[96, 96]"),
        (lambda writer: (writer.add_sliding_window(8), writer.add_sliding_window_pattern(2)), "window_pattern=2"),
        (lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(3, np.float32)), "rope_freqs.weight=(3,)"),
    ],
)
def test_metadata_that_changes_the_arithmetic_is_refused_by_its_key(tmp_path, change, cause):
    """With its value; nothing is guessed."""
    model = random_model("qwen3")
    config = read_config(save(model, tmp_path / "folder"))

    with pytest.raises(ModelError) as refused:
        GgufCheckpoint(gguf_of(model, config, tmp_path / "m.gguf", changes=change))

    assert cause in str(refused.value)
