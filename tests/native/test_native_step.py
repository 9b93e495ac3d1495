"""The native step against the plain torch runner on the same bf16 weights, over odd shapes."""

import dataclasses

import pytest
import torch

from bowsprit_engine.core.runner import BLOCK_SIZE
from bowsprit_engine.kernels import native
from bowsprit_engine.models import load_model
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, usable
from tiny_models import random_tokens, rows, table_of, tiny_config, tiny_llama

BF16_ROUNDING = 2**-9  # of a value, at most


@pytest.fixture(params=[variant.name for variant in usable(cpu_features())], autouse=True)
def instruction_set(request, monkeypatch):
    """Every variant that this processor runs."""
    monkeypatch.setenv(CHOSEN_VARIANT, request.param)


def error_bound(num_layers):
    """Of a row's error relative to its norm: the roundings to bf16 that a value passes through, each at most 2^-9.

    Keys and values always; where the instructions multiply bf16, also the inputs of a layer's four products with
    weights and of two with keys and values, and that of the LM head.
    """
    rounds_activations = native.activation_dtype() == torch.bfloat16
    return BF16_ROUNDING * (num_layers * (8 if rounds_activations else 2) + rounds_activations)


def assert_rows_agree(actual, expected, *, num_layers):
    """Row by row: a kernel that leaves out or misplaces anything is off by far more than the roundings."""
    errors = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) <= error_bound(num_layers)


class Bf16Weights(RandomCheckpoint):
    """What the native runner stores: every matrix rounded to bf16."""

    def tensor(self, name):
        tensor = super().tensor(name)
        return tensor.bfloat16().float() if tensor.ndim == 2 else tensor


def runners(path, **shape):
    """The native and the reference runner of one random model."""
    config = tiny_config(**shape)
    checkpoint = Bf16Weights(path, config)
    native_runner = NativeRunner(checkpoint, num_threads=2)
    reference = TorchRunner(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    for runner in (native_runner, reference):
        runner.allocate_kv(16)
    return native_runner, reference


SHAPES = [
    {"num_layers": 1},
    {"num_heads": 3, "num_kv_heads": 3},
    {"num_heads": 4, "num_kv_heads": 1},
    {"num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "hidden_size": 576, "intermediate_size": 1536},
    {"num_heads": 8, "num_kv_heads": 1, "head_dim": 32},
    {"num_heads": 14, "num_kv_heads": 2, "head_dim": 128},
    {"num_heads": 5, "num_kv_heads": 5, "head_dim": 80, "hidden_size": 48, "intermediate_size": 16},
    {"vocab_size": 259, "tie_word_embeddings": False},
    {"vocab_size": 273, "hidden_size": 16, "intermediate_size": 112},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_computes_what_the_torch_runner_computes(tmp_path, shape):
    """A prompt over several blocks in scattered order: logits of some rows, hidden states of all."""
    native_runner, reference = runners(tmp_path, **shape)
    prompt = random_tokens(53, vocab_size=native_runner.config.vocab_size)
    step = rows((prompt, 0, [9, 2, 15, 4]), logit_rows=[0, 7, 52])

    expected, actual = reference.forward(step), native_runner.forward(step)

    num_layers = native_runner.config.num_layers
    assert_rows_agree(actual.logits, expected.logits, num_layers=num_layers)
    assert_rows_agree(actual.hidden, expected.hidden, num_layers=num_layers)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 6, 7, 11, 13, 19, 31])
def test_every_number_of_rows_has_its_kernel(tmp_path, num_rows):
    """Verify rows of two sequences at other positions in one step."""
    native_runner, reference = runners(tmp_path, vocab_size=275)
    first, second = random_tokens(60, vocab_size=275), random_tokens(60, vocab_size=275, seed=1)
    for runner in (native_runner, reference):
        runner.forward(rows((first[:25], 0, [1, 2, 3, 4]), (second[:9], 0, [5, 6, 7, 8])))
    step = rows((first[25 : 25 + num_rows], 25, [1, 2, 3, 4]), (second[9:11], 9, [5, 6, 7, 8]))

    expected, actual = reference.forward(step), native_runner.forward(step)

    assert_rows_agree(actual.logits, expected.logits, num_layers=native_runner.config.num_layers)


def test_no_logits_are_computed_when_none_are_wanted(tmp_path):
    """A prompt's chunk that isn't its last."""
    native_runner, _ = runners(tmp_path)

    output = native_runner.forward(rows((random_tokens(20, vocab_size=300), 0, table_of(20)), logit_rows=[]))

    assert tuple(output.logits.shape) == (0, 300)
    assert tuple(output.hidden.shape) == (20, 64)


def test_rows_of_weights_are_the_bf16_values(tmp_path):
    """Embedding and LM head read back out of the packed copies."""
    native_runner, reference = runners(tmp_path, vocab_size=283, tie_word_embeddings=False)
    ids = torch.tensor([0, 17, 282, 15, 16])

    assert torch.equal(native_runner.embed(ids), reference.embed(ids))
    assert torch.equal(native_runner.lm_head_rows(ids), reference.lm_head_rows(ids))
    assert torch.equal(native_runner.final_norm_weight(), reference.final_norm_weight())
    with pytest.raises(IndexError, match=r"is not within 0 and 282"):
        native_runner.embed(torch.tensor([283]))


def test_a_nan_reaches_the_logits_of_its_own_sequence_only(tmp_path):
    """The step must see it; a neighbour that shares the step, or later takes over its blocks, must not."""
    config = tiny_config(tie_word_embeddings=False)
    expected = NativeRunner(RandomCheckpoint(tmp_path, config), num_threads=2)
    poisoned = NativeRunner(PoisonedToken(tmp_path, config), num_threads=2)
    good, bad = random_tokens(20, vocab_size=200), [299] * 20
    for runner in (expected, poisoned):
        runner.allocate_kv(4)

    output = poisoned.forward(rows((good, 0, [0, 1]), (bad, 0, [2, 3])))
    taken_over = poisoned.forward(rows((good, 0, [2, 3]))).logits
    plain = expected.forward(rows((good, 0, [0, 1]))).logits

    assert torch.isnan(output.logits[20:]).all()
    assert torch.equal(output.logits[:20], plain)
    assert torch.equal(taken_over, plain)


class PoisonedToken(RandomCheckpoint):
    """Token 299's embedding is NaN."""

    def tensor(self, name):
        tensor = super().tensor(name)
        if name == "model.embed_tokens.weight":
            tensor[299] = torch.nan
        return tensor


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (rows(([300], 0, [0])), "token id 300 is not within 0 and 299"),
        (rows(([-1], 0, [0])), "token id -1 is not within"),
        (rows(([1], 16, [0])), "position 16 is not within 0 and 15"),
        (rows(([1], 256, list(range(17)))), "position 256 is not within 0 and 255"),
        (rows(([1], 0, [17])), "block 17 is not within 0 and 16"),
        (rows(([1], 0, [0]), logit_rows=[1]), "logit row 1 is not within 0 and 0"),
    ],
)
def test_rows_outside_the_model_are_refused_and_not_read(tmp_path, step, message):
    """A wrong index would read other memory: it is an error with its value and limit."""
    native_runner = NativeRunner(RandomCheckpoint(tmp_path, tiny_config()), num_threads=2)
    native_runner.allocate_kv(17)

    with pytest.raises(RuntimeError, match=message):
        native_runner.forward(step)


@pytest.mark.parametrize("name", ["positions", "row_sequences"])
def test_rows_that_lack_a_value_are_refused(tmp_path, name):
    """Instead of reading past the tensor's end."""
    native_runner = NativeRunner(RandomCheckpoint(tmp_path, tiny_config()), num_threads=2)
    native_runner.allocate_kv(1)
    step = rows(([1, 2, 3], 0, [0]))
    short = dataclasses.replace(step, **{name: getattr(step, name)[:2]})

    with pytest.raises(ValueError, match="3 token ids, "):
        native_runner.forward(short)


def test_a_row_whose_logits_are_wanted_many_times_gives_them_each_time(tmp_path):
    """More logits than rows: a step's memory is for the larger number."""
    native_runner = NativeRunner(RandomCheckpoint(tmp_path, tiny_config()), num_threads=2)
    native_runner.allocate_kv(1)

    logits = native_runner.forward(rows(([1], 0, [0]), logit_rows=[0] * 3000)).logits

    assert torch.equal(logits[:1].expand(3000, -1), logits)


def test_a_step_before_the_cache_exists_is_refused(tmp_path):
    """There is nothing to write keys to."""
    native_runner = NativeRunner(RandomCheckpoint(tmp_path, tiny_config()), num_threads=1)

    with pytest.raises(RuntimeError, match="allocate_kv comes before the first step"):
        native_runner.forward(rows(([1], 0, [0])))


def test_it_says_what_it_is_and_what_a_step_cost(tmp_path):
    """The profile's key, bytes per block, and processor time that a contended step lacks."""
    model = load_model(tiny_llama(tmp_path), num_threads=2)
    runner = model.runner
    runner.allocate_kv(4)
    runner.forward(rows((random_tokens(30, vocab_size=300), 0, table_of(30))))

    assert runner.is_row_invariant
    assert runner.accelerator.endswith(f"({native.variant()}, 2 threads)")
    assert (runner.num_threads, runner.dtype) == (2, "bfloat16")
    assert runner.kv_bytes_per_block() == 2 * 2 * 2 * 16 * BLOCK_SIZE * 2
    assert 0 < runner.last_step_cpu_seconds < 60
