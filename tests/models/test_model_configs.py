"""What config.json may say: the Llama family is read, everything that changes the arithmetic is refused by its key."""

import json
import math

import pytest

from bowsprit_engine.core.rope_scaling import YarnScaling
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
    ("changes", "expected"),
    [
        ({"model_type": "mistral", "sliding_window": 9}, (9, 9)),
        ({"model_type": "mistral"}, (4096, 4096)),
        ({"model_type": "mistral", "sliding_window": None}, ()),
        ({"model_type": "qwen2", "sliding_window": 9}, ()),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, (None, 9)),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 9}, ()),
    ],
)
def test_the_window_of_each_layer_is_resolved_when_the_config_is_read(tmp_path, changes, expected):
    """An absent key is what transformers' class of the family makes of it."""
    assert read_config(tiny_llama(tmp_path, config_changes=changes)).layer_windows == expected


def test_yarn_serves_the_length_that_it_stretches_to(tmp_path):
    """Many configs keep the original length in max_position_embeddings."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    config = read_config(tiny_llama(tmp_path, config_changes={"rope_scaling": scaling}))

    assert config.max_model_len == 1024
    assert config.rope_scaling == YarnScaling(
        factor=4.0, original_max_position_embeddings=256, attention_factor=pytest.approx(0.1 * math.log(4) + 1)
    )


def test_what_a_family_leaves_out_is_the_default_of_its_class(tmp_path):
    """Qwen3's heads are 128 wide, Mistral has 8 key-value heads; null means one per query head."""
    absent = tiny_llama(tmp_path)
    raw = json.loads((absent / "config.json").read_text())
    del raw["head_dim"], raw["num_key_value_heads"]
    raw |= {"num_attention_heads": 32}
    sizes = {}
    for model_type in ("llama", "mistral", "qwen2", "qwen3"):
        (absent / "config.json").write_text(json.dumps(raw | {"model_type": model_type}))
        config = read_config(absent)
        sizes[model_type] = (config.head_dim, config.num_kv_heads)

    assert sizes == {"llama": (2, 32), "mistral": (2, 8), "qwen2": (2, 32), "qwen3": (128, 32)}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model_type": "gemma3"}, "model_type 'gemma3' is not supported, choose one of: llama, mistral, qwen2, qwen3"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling of type 'dynamic' is not supported (its"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters of type 'longrope'"),
        ({"rope_scaling": {"type": "yarn", "factor": "four"}}, "rope_scaling of type 'yarn' has factor='four'"),
        ({"rope_scaling": {"type": "linear"}}, "has factor=None, expected a number above 0"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "has mrope_section=[1], which is not"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor=0.25"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types=['full_attention', 'sliding_att"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0, the least is 1"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "layer_types=["),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias=True"),
        ({"model_type": "qwen2", "mlp_bias": True}, "mlp_bias=True"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["full_attention", "chunked_attention"]},
            "layer_types=['full_attention', 'chunked_attention']",
        ),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 2}, "layer_types=['sliding_attention', "),
        ({"num_experts": 8}, "num_experts=8"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"hidden_size": 66, "head_dim": None}, "hidden_size 66 is not a multiple of 4 heads"),
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
