"""Prompt look-up on the device against the drafter that defines it."""

from __future__ import annotations

import pytest
import torch

from bowsprit_engine.kernels import ngram
from bowsprit_engine.speculation.drafters.ngram import SuffixIndex, continue_from


def by_the_drafters_index(token_ids, lengths, num_draft_tokens):
    """What the drafter proposes where no copy is under way."""
    drafts = []
    for row, length in zip(token_ids, lengths.tolist(), strict=True):
        tokens, index = row[:length].tolist(), SuffixIndex()
        index.extend(tokens)
        start = index.find(tokens)
        drafts.append([] if start is None else list(continue_from(tokens, start, num_draft_tokens)))
    return drafts


@pytest.mark.parametrize(("vocab", "num_draft_tokens"), [(2, 11), (6, 4), (40, 1)])
def test_it_drafts_what_the_drafter_drafts(vocab, num_draft_tokens):
    """Many short sequences over few tokens: matches of every length, none, periods, and what lies past the end."""
    generator = torch.Generator().manual_seed(vocab)
    token_ids = torch.randint(0, vocab, (40, 70), generator=generator)
    lengths = torch.arange(40, dtype=torch.int32) % 35 * 2
    expected, expected_has = ngram.reference(token_ids, lengths, num_draft_tokens=num_draft_tokens)

    drafts, has_draft = ngram.look_up(token_ids, lengths, num_draft_tokens=num_draft_tokens)

    assert (drafts.tolist(), has_draft.tolist()) == (expected.tolist(), expected_has.tolist())
    proposed = [row.tolist() if has else [] for row, has in zip(drafts, has_draft, strict=True)]
    assert proposed == by_the_drafters_index(token_ids, lengths, num_draft_tokens)


def test_the_latest_of_equally_long_matches_wins_over_blocks():
    """Matches in different blocks of one sequence."""
    token_ids = torch.arange(3000)[None].clone()
    token_ids[0, [10, 11, 500, 501, 2500, 2501, 2998, 2999]] = torch.tensor([7001, 7002] * 4)

    drafts, has_draft = ngram.look_up(token_ids, torch.tensor([3000], dtype=torch.int32), num_draft_tokens=2)

    assert (drafts.tolist(), has_draft.tolist()) == ([[2502, 2503]], [True])


def test_tokens_of_another_dtype_are_refused():
    """Batches hold int64."""
    with pytest.raises(ValueError, match=r"torch.int32 \(1, 4\)"):
        ngram.look_up(torch.zeros(1, 4, dtype=torch.int32), torch.zeros(1), num_draft_tokens=2)
