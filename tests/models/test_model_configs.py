"""What config.json may say: the Llama family is read, everything that changes the arithmetic is refused by its key."""

import json

import pytest

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.config_hf import read_config
from tiny_models import tiny_config, tiny_llama


def test_a_llama_config_is_read_whole(tmp_path):
    """Every field of ModelConfig comes back."""
    config = tiny_config(num_heads=6, num_kv_heads=3, tie_word_embeddings=False)

    assert config == read_config(tiny_llama(tmp_path, config))


def test_the_newer_place_of_the_rope_base_is_read(tmp_path):
    """transformers 5 writes rope_parameters instead of rope_theta."""
    changes = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}

    assert read_config(tiny_llama(tmp_path, config_changes=changes)).rope_theta == 500000.0


def test_the_generation_config_adds_tokens_that_end_a_reply(tmp_path):
    """Chat models end turns with another token than documents."""
    folder = tiny_llama(tmp_path, config_changes={"eos_token_id": 2})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))

    assert read_config(folder).eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling of type 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters of type 'yarn'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config="),
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"num_attention_heads": 0, "head_dim": 16}, "num_heads is 0"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_key_value_heads": 3}, "4 query heads are not a multiple of 3 key-value heads"),
        ({"head_dim": 15}, "head_dim 15 is not even"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, changes, cause):
    """The message names the file, the key and its value."""
    folder = tiny_llama(tmp_path, config_changes=changes)

    with pytest.raises(ModelError) as refused:
        read_config(folder)

    assert cause in str(refused.value)
    assert str(folder / "config.json") in str(refused.value)
