"""The keyed draw against known answers, brute force and its exact distribution."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bowsprit_engine.kernels import reference

PROBS = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
UNLIKELY = 1e-4  # of a sound draw to fail a test below; seeds are fixed, so it passes always or never


def draws(*, seeds, positions, temperature=1.0):
    """Tokens of PROBS for many keys at once; the next test shows that they are draw_row's."""
    words = reference.philox(
        seeds=torch.tensor(list(seeds))[:, None],
        counter_0=torch.arange(len(PROBS)),
        counter_1=torch.tensor(list(positions))[:, None],
    )
    return torch.argmax(PROBS.log() / temperature + reference.gumbel(words), dim=1).tolist()


def draw_one(logits, *, seed=0, position=0, temperature=1.0):
    return reference.draw_row(
        logits, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, seed=seed, position=position
    )


def p_value(tokens, probs):
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probs)).tolist()
    expected = probs.double() / probs.double().sum() * len(tokens)
    return stats.chisquare(counts, expected.tolist()).pvalue


def test_many_draws_at_once_are_the_single_ones():
    """What the distribution tests below draw is what the engine draws."""
    seeds, positions = [5, -3, 2**62, 8], [0, 9, 77, 2048]
    singly = [
        draw_one(PROBS.log(), seed=seed, position=position, temperature=0.7)
        for seed, position in zip(seeds, positions, strict=True)
    ]

    assert singly == draws(seeds=seeds, positions=positions, temperature=0.7)


@pytest.mark.parametrize(
    ("seed", "counter_0", "counter_1", "word"),
    [
        (0, 0, 0, 0x6627E8D5),  # Random123's known answer for key 0, counter 0
        (0x299F31D0A4093822, 0x243F6A88, 0x85A308D3, None),
    ],
)
def test_philox_gives_the_published_words(seed, counter_0, counter_1, word):
    """The generator is Philox4x32-10 and not a variant: checked against an independent implementation."""
    actual = int(
        reference.philox(seeds=torch.tensor(seed), counter_0=torch.tensor(counter_0), counter_1=torch.tensor(counter_1))
    )

    assert scalar_philox(seed, counter_0, counter_1) == actual
    assert word in (None, actual)


def scalar_philox(seed, c0, c1):
    """Philox4x32-10 with Python's own integers."""
    k0, k1, c2, c3 = seed & 0xFFFFFFFF, seed >> 32, 0, 0
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c3 ^ k1, a & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0


def test_noise_is_finite_for_every_word():
    """The smallest and the largest word give finite noise; 24 bits of a word would not (u rounds to 1)."""
    words = torch.tensor([0, 0xFFFFFFFF])

    assert torch.isfinite(reference.gumbel(words)).tolist() == [True, True]
    assert reference.uniform(words).tolist() == [2.0**-24, 1 - 2.0**-24]


def test_greedy_takes_the_lowest_id_of_equals():
    """Temperature 0 is the argmax without noise."""
    assert draw_one(torch.tensor([1.0, 2.0, 2.0, -5.0]), temperature=0.0) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_targets_distribution(temperature):
    """Over positions of one request, and over requests at one position, tokens come as softmax says (chi-square)."""
    expected = torch.softmax(PROBS.log() / temperature, dim=0)
    over_positions = draws(seeds=[42] * 20_000, positions=range(20_000), temperature=temperature)
    over_requests = draws(seeds=range(20_000), positions=[17] * 20_000, temperature=temperature)

    assert p_value(over_positions, expected) > UNLIKELY
    assert p_value(over_requests, expected) > UNLIKELY


@pytest.mark.parametrize(
    ("neighbours"),
    [
        pytest.param(lambda i: ((i, 5), (i, 6)), id="next position"),
        pytest.param(lambda i: ((i, 5), (i + 1, 5)), id="next seed"),
        pytest.param(lambda i: ((i, 5), (i + 2**32, 5)), id="a seed that differs in its high half"),
        pytest.param(lambda i: ((7, i), (i, 7)), id="seed and position swapped"),
    ],
)
def test_noise_of_neighbours_is_independent(neighbours):
    """Pairs of tokens from neighbouring keys come as the product of their distributions (chi-square)."""
    one, other = zip(*(neighbours(i) for i in range(100, 10_100)), strict=True)
    tokens, others = (draws(seeds=[k[0] for k in keys], positions=[k[1] for k in keys]) for keys in (one, other))
    joint = torch.outer(PROBS, PROBS).flatten()

    assert p_value([6 * a + b for a, b in zip(tokens, others, strict=True)], joint) > UNLIKELY


def test_noise_of_tokens_is_independent():
    """Noise of neighbouring token ids is uncorrelated and has the Gumbel distribution (Kolmogorov-Smirnov)."""
    noise = reference.noise(seed=3, position=9, vocab_size=20_000)

    assert abs(float(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1])) < 4 / math.sqrt(20_000)
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > UNLIKELY


def kept_by_brute_force(probs, *, top_k, top_p, min_p):
    """The definition in words, token by token."""
    kept = set(range(len(probs)))
    if 0 < top_k < len(probs):
        kept = {i for i in kept if probs[i] >= sorted(probs, reverse=True)[top_k - 1]}
    if top_p < 1.0:
        total = sum(probs[i] for i in kept)
        above = {i: sum(probs[j] for j in kept if probs[j] > probs[i]) / total for i in kept}
        kept = {i for i in kept if above[i] < top_p or probs[i] == max(probs)}
    return {i for i in kept if probs[i] >= min_p * max(probs)}


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    top_k=st.integers(0, 10),
    top_p=st.sampled_from([0.0, 0.137, 0.333, 0.617, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.149, 0.517, 0.99]),
)
def test_filters_keep_what_their_words_say(weights, top_k, top_p, min_p):
    """top_k, top_p and min_p, ties included, against the definition token by token."""
    probs = [w / sum(weights) for w in weights]
    total = sum(weights)
    for count in itertools.accumulate(sorted(weights, reverse=True)):
        if abs(count / total - top_p) < 1e-5:
            return  # too close for float32 to tell which side

    kept = reference.filtered(torch.tensor(probs).log(), top_k=top_k, top_p=top_p, min_p=min_p)

    expected = kept_by_brute_force(probs, top_k=top_k, top_p=top_p, min_p=min_p)
    assert expected == set(torch.isfinite(kept).nonzero().flatten().tolist())


def test_a_row_is_drawn_the_same_whatever_else_is_in_the_step():
    """Rows are independent, bit for bit: alone and among 40 others, every row gives the same token."""
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(40, 1000, generator=generator)
    arguments = (
        torch.full((40,), 0.9),
        torch.arange(40, dtype=torch.int32) % 7,
        torch.linspace(0.5, 1.0, 40),
        torch.full((40,), 0.01),
        torch.arange(40),
        torch.arange(40) * 3,
    )
    alone = [int(reference.draw(logits[i : i + 1], *(a[i : i + 1] for a in arguments))) for i in range(40)]

    assert alone == reference.draw(logits, *arguments).tolist()


def test_a_verified_sequence_emits_its_right_drafts_and_the_bonus():
    """Acceptance stops at the first draft that the target didn't draw, even when a later one matches."""
    logits = torch.nn.functional.one_hot(torch.tensor([3, 1, 4, 1, 5]), 6).float()

    drawn, accepted = reference.verify(
        logits,
        row_starts=torch.tensor([0, 4, 5], dtype=torch.int32),
        drafts=torch.tensor([3, 0, 4, 0, 0]),
        temperature=torch.zeros(2),
        seeds=torch.zeros(2, dtype=torch.int64),
        positions=torch.tensor([8, 2], dtype=torch.int32),
    )

    assert (drawn.tolist(), accepted.tolist()) == ([3, 1, 4, 1, 5], [1, 0])
