"""Models that can't be loaded: each refusal names the path and the cause, and nothing else is raised."""

import shutil

import pytest
import torch

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models import load_model
from tiny_models import edit_weights, tiny_config, tiny_gguf, tiny_llama


def refusal(path, **options):
    with pytest.raises(ModelError) as refused:
        load_model(path, **options)
    assert str(path) in str(refused.value)
    return refused.value


def test_a_missing_path(tmp_path):
    """Neither a file nor a folder."""
    assert refusal(tmp_path / "nowhere").reason == "ModelNotFound"


def test_a_file_of_another_kind(tmp_path):
    """Only .gguf files are models by themselves."""
    (tmp_path / "model.onnx").write_bytes(b"x")

    assert "neither a .gguf file nor a folder" in str(refusal(tmp_path / "model.onnx"))


def test_a_folder_without_a_config(tmp_path):
    """The first thing that is read is the first that is missed."""
    assert "config.json: no such file" in str(refusal(tmp_path))


def test_a_config_that_is_not_json(tmp_path):
    """The parser's own words are kept."""
    (tiny_llama(tmp_path) / "config.json").write_text("{")

    assert "not readable as JSON" in str(refusal(tmp_path))


def test_a_folder_without_weights(tmp_path):
    """Both names are said."""
    (tiny_llama(tmp_path) / "model.safetensors").unlink()

    assert "neither model.safetensors nor model.safetensors.index.json" in str(refusal(tmp_path))


def test_a_folder_without_a_tokenizer(tmp_path):
    """Weights alone don't serve."""
    (tiny_llama(tmp_path) / "tokenizer.json").unlink()

    assert "tokenizer.json: no such file" in str(refusal(tmp_path))


def test_a_damaged_tokenizer(tmp_path):
    """The library raises a plain Exception; ours says which file."""
    (tiny_llama(tmp_path) / "tokenizer.json").write_text("{}")

    assert "tokenizer.json: not a tokenizer" in str(refusal(tmp_path))


def test_truncated_safetensors(tmp_path):
    """A copy that was cut off."""
    file = tiny_llama(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    assert "not readable as safetensors" in str(refusal(tmp_path))


def test_a_missing_shard(tmp_path):
    """The index names a file that isn't there."""
    (tiny_llama(tmp_path, num_shards=3) / "model-00002-of-00003.safetensors").unlink()

    assert "model-00002-of-00003.safetensors: no such file" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "the first is model.norm.weight"),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}),
            "model.layers.0.self_attn.q_proj.bias is not part of a Llama decoder",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}),
            "model.norm.weight has shape (63,), the config says (64,)",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            "model.norm.weight has dtype torch.int8",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_weights_that_are_not_this_models(tmp_path, change, cause, backend):
    """A tensor that is missing, unknown, of another shape or of another dtype is named."""
    edit_weights(tiny_llama(tmp_path) / "model.safetensors", change)

    assert cause in str(refusal(tmp_path, backend=backend))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_gguf(tmp_path, part):
    """Cut off in its header, its metadata or its tensors."""
    whole = tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * part)])

    assert refusal(path).reason == "CorruptModel"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda writer: writer.add_string("llama.rope.scaling.type", "su"), "llama.rope.scaling.type='su'"),
        (lambda writer: writer.add_expert_count(8), "llama.expert_count=8"),
    ],
)
def test_a_gguf_of_a_model_that_is_not_supported(tmp_path, change, cause):
    """Metadata that changes the arithmetic is refused by its key."""
    assert cause in str(refusal(tiny_gguf(tmp_path / "m.gguf", changes=change)))


def test_a_folder_that_calls_itself_gguf(tmp_path):
    """A folder is read as a folder."""
    folder = tiny_llama(tmp_path / "model.gguf")

    assert load_model(folder, backend="torch").config == tiny_config()
    shutil.rmtree(folder)
    assert refusal(folder).reason == "ModelNotFound"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"dtype": "int4"}, "dtype 'int4' is not one of: auto, bfloat16, float16, float32"),
        ({"backend": "onnx"}, "backend 'onnx' is not one of: auto, native, torch"),
        ({"backend": "native", "dtype": "float32"}, "the native backend runs bfloat16"),
        ({"load_format": "pickle"}, "load_format 'pickle' is not one of: auto, dummy"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"max_model_len": 257}, "max_model_len 257 is not within 1 and the model's own 256"),
        ({"max_model_len": 0}, "max_model_len 0 is not within"),
    ],
)
def test_options_that_do_not_exist(tmp_path, options, cause):
    """The choices or the limit are in the message."""
    assert cause in str(refusal(tiny_llama(tmp_path), **options))


def test_shapes_that_the_native_kernels_do_not_run(tmp_path):
    """Their loops need multiples of 16; the message says who runs it."""
    folder = tiny_llama(tmp_path, tiny_config(intermediate_size=90))

    assert "intermediate_size to be a multiple of 16, it is 90" in str(refusal(folder, backend="native"))
    assert load_model(folder, backend="torch").config.intermediate_size == 90


def test_a_dummy_vocabulary_without_room_for_bytes(tmp_path):
    """A config without a tokenizer gets one token per byte; the count is in the message."""
    (tiny_llama(tmp_path, tiny_config(vocab_size=259)) / "tokenizer.json").unlink()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 259', '"vocab_size": 200'))

    cause = str(refusal(tmp_path, load_format="dummy", backend="torch"))

    assert "a vocabulary of 200 has no room for a token per byte (256)" in cause
