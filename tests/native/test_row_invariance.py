"""A row's bits don't depend on the other rows, the tile it falls into, its blocks or the number of threads.

Equality of text with and without speculation rests on this: everything here is compared bit for bit.
"""

import random

import pytest
import torch

from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import PackedLinear
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, usable
from tiny_models import random_tokens, rows, tiny_config

NUM_TOKENS = 90
NUM_BLOCKS = 40
SHAPES = [
    {"vocab_size": 277},
    {
        "num_heads": 9,
        "num_kv_heads": 3,
        "head_dim": 64,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "vocab_size": 281,
    },
    {"num_heads": 8, "num_kv_heads": 1, "head_dim": 32},
    {"num_heads": 2, "num_kv_heads": 2, "head_dim": 128, "num_layers": 3},
]


@pytest.fixture(params=[variant.name for variant in usable(cpu_features())], autouse=True)
def instruction_set(request, monkeypatch):
    """Every variant that this processor runs, on two threads: other tests may have left another number."""
    monkeypatch.setenv(CHOSEN_VARIANT, request.param)
    native.set_num_threads(2)
    yield
    native.set_num_threads(2)


def runner_of(path, shape):
    runner = NativeRunner(RandomCheckpoint(path, tiny_config(**shape)), num_threads=None)
    runner.allocate_kv(NUM_BLOCKS)
    return runner


def one_by_one(runner, tokens, table):
    """Logits and hidden states when every token is a step of its own."""
    outputs = [runner.forward(rows(([token], position, table))) for position, token in enumerate(tokens)]
    return torch.cat([o.logits for o in outputs]), torch.cat([o.hidden for o in outputs])


def in_chunks(runner, tokens, table, sizes):
    logits, hidden, begin = [], [], 0
    for size in sizes:
        output = runner.forward(rows((tokens[begin : begin + size], begin, table)))
        logits.append(output.logits)
        hidden.append(output.hidden)
        begin += size
    return torch.cat(logits), torch.cat(hidden)


def chunks_covering(total, sizes):
    """Sizes in turn until they sum to `total`."""
    taken = []
    for size in sizes:
        taken.append(min(size, total - sum(taken)))
        if sum(taken) == total:
            return taken
    raise ValueError(f"{sizes} cover less than {total}")


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_of_every_size_give_the_bits_of_single_tokens(tmp_path, shape):
    """Sizes 1 to 40 and shuffled mixtures of them, each in blocks of its own order."""
    runner = runner_of(tmp_path, shape)
    tokens = random_tokens(NUM_TOKENS, vocab_size=runner.config.vocab_size)
    expected = one_by_one(runner, tokens, list(range(6)))
    shuffle = random.Random(1)
    partitions = [[size] * NUM_TOKENS for size in range(1, 41)]
    partitions += [shuffle.sample(range(1, 41), 40) for _ in range(5)]
    for partition in partitions:
        table = shuffle.sample(range(NUM_BLOCKS), 6)
        actual = in_chunks(runner, tokens, table, chunks_covering(NUM_TOKENS, partition))
        assert torch.equal(expected[0], actual[0]), f"logits differ in chunks {partition[:5]}"
        assert torch.equal(expected[1], actual[1]), f"hidden states differ in chunks {partition[:5]}"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_gives_the_bits_of_each_sequence_alone(tmp_path, shape):
    """Four sequences at other positions with other numbers of rows, in every order."""
    runner = runner_of(tmp_path, shape)
    lengths = [3, 17, 40, 61]
    tokens = [random_tokens(70, vocab_size=runner.config.vocab_size, seed=seed) for seed in range(4)]
    tables = [list(range(5 * index, 5 * index + 5)) for index in range(4)]
    expected = [one_by_one(runner, tokens[index], tables[index])[0] for index in range(4)]
    order = random.Random(2)
    for _ in range(8):
        picked = order.sample(range(4), order.randint(1, 4))
        sizes = [order.randint(1, 9) for _ in picked]
        step = rows(
            *(
                (tokens[index][lengths[index] : lengths[index] + size], lengths[index], tables[index])
                for index, size in zip(picked, sizes, strict=True)
            )
        )
        actual = runner.forward(step).logits.split(sizes)
        for index, size, logits in zip(picked, sizes, actual, strict=True):
            assert torch.equal(expected[index][lengths[index] : lengths[index] + size], logits)


def test_the_wanted_logit_rows_do_not_change_a_row(tmp_path):
    """All rows, one row, or every third."""
    runner = runner_of(tmp_path, SHAPES[0])
    tokens = random_tokens(37, vocab_size=277)
    expected = runner.forward(rows((tokens, 0, [0, 1, 2]))).logits

    for wanted in ([36], list(range(0, 37, 3)), [5, 6, 7, 8]):
        assert torch.equal(expected[wanted], runner.forward(rows((tokens, 0, [0, 1, 2]), logit_rows=wanted)).logits)


@pytest.mark.parametrize("num_threads", [1, 3, 5])
def test_the_number_of_threads_does_not_change_a_bit(tmp_path, num_threads):
    """More threads than processors too: waiting threads yield."""
    runner = runner_of(tmp_path, SHAPES[1])
    step = rows((random_tokens(23, vocab_size=281), 0, [0, 1]))
    expected = runner.forward(step).logits

    native.set_num_threads(num_threads)

    assert torch.equal(expected, runner.forward(step).logits)


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 1), (16, 2), (37, 63), (49, 48), (300, 576), (576, 1537)])
def test_a_packed_linear_gives_each_row_its_bits(num_outputs, num_inputs):
    """Against float32 on inputs rounded as the instruction set rounds them, and bitwise over 1 to 40 rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(num_outputs, num_inputs, generator=generator).bfloat16()
    x = torch.randn(40, num_inputs, generator=generator)
    linear = PackedLinear(weight)

    expected = torch.cat([linear(x[row : row + 1]) for row in range(40)])

    rounded = x.to(native.activation_dtype()).float()
    torch.testing.assert_close(expected, rounded @ weight.float().T, rtol=1e-4, atol=1e-3)
    for num_rows in range(1, 41):
        assert torch.equal(expected[:num_rows], linear(x[:num_rows])), f"{num_rows} rows differ"


def test_a_packed_linear_refuses_another_width():
    """The width it was built with is in the message."""
    with pytest.raises(ValueError, match=r"expected \[rows, 8\]"):
        PackedLinear(torch.zeros(4, 8))(torch.zeros(2, 7))
