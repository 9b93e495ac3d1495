"""Who is asked for which sequence, and what is counted."""

from __future__ import annotations

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.pool import DrafterPool, Proposal
from bowsprit_policy.wire import DrafterState, DrafterType
from fakes import FakeDrafter


def sequence(name):
    return LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=(1, 2),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
        )
    )


def counts(known):
    """A count-based drafter that knows some sequences."""
    return FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda context: known.get(context.request_id, ()))


def head():
    return FakeDrafter(name="head", draft=lambda _: [7, 7, 7, 7])


CAPS = {"counts": 2, "head": 3}


def test_the_head_drafts_where_counts_have_no_match():
    """Count-based first, whatever the order of configuration; each within its cap; counted by who was asked."""
    pool = DrafterPool([head(), counts({"a": [4, 5, 6]})], vocab_size=10)

    report = pool.draft([sequence("a"), sequence("b")], [CAPS, CAPS])

    assert report.proposals == (
        Proposal(drafter="counts", token_ids=(4, 5)),
        Proposal(drafter="head", token_ids=(7, 7, 7)),
    )
    assert (report.asked, report.proposed) == ({"counts": 2, "head": 1}, {"counts": 1, "head": 1})


def test_a_drafter_without_a_cap_is_not_asked():
    """K = 0 costs nothing, not even the question."""
    pool = DrafterPool([head(), counts({"a": [4]})], vocab_size=10)

    report = pool.draft([sequence("a"), sequence("b")], [{"counts": 0}, {}])

    assert report.proposals == (Proposal(), Proposal())
    assert (report.asked, report.proposed, report.seconds) == ({}, {}, {})


def test_only_active_drafters_are_asked():
    """Empty and Broken ones propose nothing."""
    empty = head()
    empty.state = DrafterState.EMPTY
    pool = DrafterPool([empty], vocab_size=10)

    assert pool.draft([sequence("a")], [CAPS]).asked == {}


def test_the_wrong_number_of_drafts_breaks_the_drafter():
    """Drafts can't be told apart then; none of them is used."""
    strange = head()
    strange.propose = lambda contexts: []
    pool = DrafterPool([strange], vocab_size=10)

    report = pool.draft([sequence("a")], [CAPS])

    assert report.proposals == (Proposal(),)
    assert (strange.state, strange.reason[:26]) == (DrafterState.BROKEN, "0 drafts for 1 sequences, ")
