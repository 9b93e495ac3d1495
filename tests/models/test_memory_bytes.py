"""What a config says that a model takes, against what the runners hold of it."""

import dataclasses

import pytest
import torch

from bowsprit_engine.models.memory import kv_bytes_per_block, loading_bytes, num_parameters, step_bytes, weight_bytes
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from tiny_models import tiny_config

SHAPES = {
    "tied": {"vocab_size": 320},
    "untied": {"vocab_size": 320, "tie_word_embeddings": False, "head_dim": 32},
}


def bytes_held(value):
    """Of all distinct tensors within dataclasses, lists and objects' attributes."""
    found, stack, seen = {}, [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found[item.data_ptr()] = item.numel() * item.itemsize
        elif dataclasses.is_dataclass(item):
            stack += [getattr(item, field.name) for field in dataclasses.fields(item)]
        elif isinstance(item, list | tuple):
            stack += item
        elif isinstance(item, TorchRunner | NativeRunner):
            stack += list(vars(item).values())
    return sum(found.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "qk_norm": True}])
def test_the_weights_of_a_config_are_those_that_runners_hold(tmp_path, shape, options):
    """Native weights exactly (these sizes need no padding); torch's with biases in its dtype instead of float32."""
    config = dataclasses.replace(tiny_config(**SHAPES[shape]), **options)
    checkpoint = RandomCheckpoint(tmp_path, config)
    native = NativeRunner(checkpoint, num_threads=1)
    torch_runner = TorchRunner(checkpoint, dtype=torch.float32, device=torch.device("cpu"))

    assert bytes_held(native) == weight_bytes(config, itemsize=2)
    assert bytes_held(torch_runner) == weight_bytes(config, itemsize=4)
    assert native.kv_bytes_per_block() == kv_bytes_per_block(config, itemsize=2)
    assert torch_runner.kv_bytes_per_block() == kv_bytes_per_block(config, itemsize=4)


def test_the_largest_tensor_is_what_loading_takes_beside_the_weights():
    """The embedding, as float32 and as bfloat16."""
    config = tiny_config(vocab_size=1000)

    assert loading_bytes(config, itemsize=2) == 1000 * 64 * 6
    assert num_parameters(config) == 1000 * 64 + 64 + 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64)


def test_a_steps_buffers_grow_with_rows_and_logits():
    """Hidden twice, queries, attended, keys, values, both halves of the MLP and their product; logits three times."""
    config = tiny_config()
    per_row = 2 * 64 + 2 * 64 + 2 * 32 + 3 * 96

    assert step_bytes(config, max_rows=10, max_logit_rows=2) == 4 * (10 * per_row + 3 * 2 * 300)
