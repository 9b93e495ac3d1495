"""What a grammar leaves no choice about: it comes first, and is believed as often as it came."""

from __future__ import annotations

from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter
from speculation.pool_drafters import counts, emit, head, sequence


def test_what_a_grammar_forces_comes_first_and_look_up_goes_on_after_it():
    """Within the cap; it is nobody's, and heads, which can't go on after other tokens, aren't asked."""
    after = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda context: [len(context.ahead), 6, 6, 6])
    pool = DrafterPool([head(), after], vocab_size=10)
    caps = {"counts": 4, "head": 4}

    report = pool.draft([sequence("a"), sequence("b")], [caps, caps], forced=[(8, 9), (8, 9, 8, 9)])

    assert [p.token_ids for p in report.proposals] == [(8, 9, 2, 6), (8, 9, 8, 9)]
    assert [p.sources for p in report.proposals] == [("", "", "counts", "counts"), ("",) * 4]
    assert report.asked == {"counts": 1}
    assert all(0.8 < survival < 1 for survival in report.proposals[1].survivals)


def test_forced_tokens_that_dont_come_are_believed_less():
    """Another cutting of the same text into tokens is the text's, and not ours to foresee."""
    pool = DrafterPool([counts({})], vocab_size=10)
    survivals = []
    for index in range(8):
        live = sequence(f"r{index}")
        (proposal,) = pool.draft([live], [{"counts": 4}], forced=[(8, 9)]).proposals
        survivals.append(proposal.survivals[0])
        emit(pool, live, 5)
        pool.forget(live)

    assert survivals[0] > 0.9
    assert survivals[-1] < 0.6
