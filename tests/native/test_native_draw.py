"""The keyed draw in C++: its noise against Random123's vectors and numpy, its tokens against the definition."""

import numpy as np
import pytest
import torch

from bowsprit_engine.kernels import native, reference

VOCAB = 1003
RANDOM123_VECTORS = [  # seed, position, token id and the first word of philox4x32-10 there
    (0, 0, 0, 0x6627E8D5),
]


def numpy_philox(*, seed, position, count):
    """First output words of philox4x32-10, in numpy's wrapping integers."""
    counter = [np.arange(count, dtype=np.uint64), np.full(count, position, np.uint64)]
    counter += [np.zeros(count, np.uint64), np.zeros(count, np.uint64)]
    low = np.uint64(0xFFFFFFFF)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (second >> np.uint64(32)) ^ counter[1] ^ np.uint64(key[0]),
            second & low,
            (first >> np.uint64(32)) ^ counter[3] ^ np.uint64(key[1]),
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter[0].astype(np.int64)


def draws(logits, **params):
    """One set of parameters for every row; rows are at consecutive positions."""
    num_rows = logits.shape[0]
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7} | params
    return (
        logits,
        torch.full((num_rows,), values["temperature"], dtype=torch.float32),
        torch.full((num_rows,), values["top_k"], dtype=torch.int32),
        torch.full((num_rows,), values["top_p"], dtype=torch.float32),
        torch.full((num_rows,), values["min_p"], dtype=torch.float32),
        torch.full((num_rows,), values["seed"], dtype=torch.int64),
        torch.arange(100, 100 + num_rows, dtype=torch.int64),
    )


def some_logits(num_rows, *, vocab=VOCAB, scale=3.0):
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(3)) * scale


@pytest.mark.parametrize(("seed", "position", "token", "expected"), RANDOM123_VECTORS)
def test_the_noise_is_philox(seed, position, token, expected):
    """The known answer of Random123 for a counter and key of zeros."""
    assert expected == int(native.philox_words(seed=seed, position=position, first=token, count=1))


@pytest.mark.parametrize(("seed", "position"), [(0, 1), (1, 0), (0xDEADBEEF12345678, 4095), (2**64 - 1, 2**32 - 1)])
def test_the_noise_is_numpys_philox_for_every_token(seed, position):
    """All 64 bits of the seed and 32 of the position matter."""
    actual = native.philox_words(seed=seed, position=position, first=0, count=VOCAB)

    assert np.array_equal(numpy_philox(seed=seed, position=position, count=VOCAB), actual.numpy())


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": VOCAB},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"top_p": 0.0},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.02, "seed": -5},
    ],
)
def test_tokens_are_those_of_the_definition(params):
    """Row by row the reference's tokens, for peaked and flat distributions."""
    for scale in (0.5, 3.0, 12.0):
        arguments = draws(some_logits(64, scale=scale), **params)
        assert torch.equal(reference.draw(*arguments), native.draw(*arguments))


def test_tokens_of_a_large_vocabulary_are_those_of_the_definition():
    """Skipping tokens whose noise can't win changes nothing."""
    arguments = draws(some_logits(8, vocab=49152, scale=1.0))

    assert torch.equal(reference.draw(*arguments), native.draw(*arguments))


@pytest.mark.parametrize("temperature", [1e-6, 1e-4, 0.05, 1.0, 4.0])
@pytest.mark.parametrize("step", [0.0, 0.25])
def test_tokens_passed_over_for_their_noise_could_not_have_won(temperature, step):
    """Whole vocabularies at once, sums so large that noise is lost in rounding, and equal values."""
    logits = some_logits(8, vocab=20_003, scale=3.0)
    arguments = draws((logits / step).round() * step if step else logits, temperature=temperature)

    assert torch.equal(reference.draw(*arguments), native.draw(*arguments))


def test_an_unlikely_token_wins_where_the_likeliest_has_the_least_noise():
    """Its value alone is above the likeliest's sum, so it wins with noise below zero, at 9 of 200,000 positions."""
    positions = torch.tensor([6960, 12563, 51018, 61437, 90450, 101219, 154843, 195652, 199806])
    logits = torch.tensor([[0.0, -2.001]]).repeat(len(positions), 1)
    arguments = (*draws(logits)[:-1], positions)

    assert torch.equal(torch.ones_like(positions), reference.draw(*arguments))
    assert torch.equal(torch.ones_like(positions), native.draw(*arguments))


def test_equal_values_go_to_the_lowest_id():
    """Greedy ties, in one vector of eight and across several."""
    logits = torch.zeros(3, VOCAB)
    logits[0, [900, 17, 18]] = 5.0
    logits[1, [12, 4]] = 5.0

    assert torch.equal(torch.tensor([17, 4, 0]), native.draw(*draws(logits, temperature=0.0)))


@pytest.mark.parametrize("vocab", [1, 7, 8, 31, 32, 33, 64, 77])
def test_greedy_tokens_are_the_first_of_equals_in_a_vocabulary_of_any_size(vocab):
    """Whole vectors, four of which are compared at once, and what is left of them."""
    logits = some_logits(200, vocab=vocab, scale=1.0).round()
    assert torch.equal(logits.argmax(dim=1), native.draw(*draws(logits, temperature=0.0)))


@pytest.mark.parametrize("params", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.9}])
def test_ties_with_the_last_token_kept_are_kept(params):
    """Uniform logits stay uniform: many different tokens come out."""
    arguments = draws(torch.zeros(200, 16), **params)

    assert torch.equal(reference.draw(*arguments), native.draw(*arguments))


def test_masked_tokens_are_never_drawn():
    """-inf, as min_tokens and grammars write it; when one token is left it is drawn."""
    logits = torch.full((50, VOCAB), -torch.inf)
    logits[:, 1001] = -80.0
    for params in ({}, {"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.3}):
        assert {1001} == set(native.draw(*draws(logits, **params)).tolist())


def test_rows_that_are_not_finite_return_some_token():
    """The step reports them; the draw must neither hang nor leave the vocabulary."""
    logits = some_logits(4)
    logits[0] = torch.nan
    logits[1] = -torch.inf
    logits[2, 5] = torch.inf
    logits[3, ::2] = torch.nan
    for params in ({}, {"temperature": 0.0}, {"top_p": 0.5, "top_k": 7, "min_p": 0.1}):
        tokens = native.draw(*draws(logits, **params))
        assert all(0 <= token < VOCAB for token in tokens.tolist())
        assert int(tokens[2]) == 5


def test_a_rows_token_depends_on_no_other_row():
    """Alone, and at any place in a batch."""
    logits, *rest = draws(some_logits(33), temperature=0.9, top_p=0.97)
    expected = native.draw(logits, *rest)

    alone = [int(native.draw(logits[row : row + 1], *(values[row : row + 1] for values in rest))) for row in range(33)]

    assert expected.tolist() == alone


def test_tokens_come_as_often_as_their_probability():
    """Chi-squared over 40,000 positions of one row; the 99.99 % point of 9 degrees of freedom is 33.7."""
    num_draws = 40_000
    logits = torch.linspace(-1.5, 1.5, 10)
    tokens = native.draw(*draws(logits.expand(num_draws, 10)))

    expected = torch.softmax(logits, dim=0) * num_draws
    counts = torch.bincount(tokens, minlength=10)

    assert float(((counts - expected) ** 2 / expected).sum()) < 33.7


def test_parameters_of_another_length_are_refused():
    """Instead of reading past their end."""
    logits, temperature, *rest = draws(some_logits(4))

    with pytest.raises(ValueError, match="temperature has 3 rows, logits have 4"):
        native.draw(logits, temperature[:3], *rest)
