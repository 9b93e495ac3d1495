"""Where packed weights lie, and reading them through."""

import torch

from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import PackedWeight
from bowsprit_engine.kernels.weight_memory import CACHE_LINE_BYTES, CHUNK_BYTES, WeightMemory


def test_pieces_begin_at_cache_lines_and_do_not_overlap():
    """Whatever their sizes; one that is larger than a chunk has a chunk of its own."""
    memory = WeightMemory()
    sizes = [1, 33, 4096, CHUNK_BYTES // 2 + 1, 7]
    pieces = [memory.take(size) for size in sizes]
    for value, piece in enumerate(pieces[:3] + pieces[4:]):
        piece.fill_(value)

    assert sizes == [piece.numel() for piece in pieces]
    assert {0} == {piece.data_ptr() % CACHE_LINE_BYTES for piece in pieces}
    assert all(bool((piece == value).all()) for value, piece in enumerate(pieces[:3] + pieces[4:]))


def test_a_piece_outlives_the_memory_it_was_taken_from():
    """The chunk is freed with its last tensor."""
    piece = WeightMemory().take(1000)
    piece.fill_(3.0)
    later = [WeightMemory().take(1000).fill_(5.0) for _ in range(3)]

    assert bool((piece == 3.0).all())
    assert len(later) == 3


def test_reading_weights_through_touches_every_word():
    """The sum of all words is that of numpy, whatever the sizes."""
    memory = WeightMemory()
    generator = torch.Generator().manual_seed(0)
    weights = [
        PackedWeight.of(torch.randn(rows, columns, generator=generator), memory)
        for rows, columns in ((16, 2), (300, 576), (1600, 1536))
    ]

    expected = sum(int(weight.storage.view(torch.int64).sum()) for weight in weights) & (2**64 - 1)

    assert expected == native.read_through(weights).sum_of_words
    assert native.read_through(weights).cpu_seconds > 0
