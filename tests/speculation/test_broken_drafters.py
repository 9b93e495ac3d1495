"""A drafter that raises, or gives what no working one gives, is Broken from then on; serving goes on."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_policy.wire import DrafterState
from speculation.pool_drafters import counts, emit, head, sequence

CAPS = {"counts": 2, "head": 3}


def test_the_wrong_number_of_drafts_breaks_the_drafter():
    """Drafts can't be told apart then; none of them is used."""
    strange = head()
    strange.propose = lambda contexts: []
    pool = DrafterPool([strange], vocab_size=10)

    report = pool.draft([sequence("a")], [CAPS])

    assert report.proposals == (Proposal(),)
    assert (strange.state, strange.reason[:26]) == (DrafterState.BROKEN, "0 drafts for 1 sequences, ")


def test_confidences_of_another_number_than_tokens_break_the_drafter():
    """They can't be told apart."""
    strange = head()
    strange.propose = lambda contexts: [Draft(token_ids=(1, 2), confidences=(0.5,))]
    pool = DrafterPool([strange], vocab_size=10)
    pool.draft([sequence("a")], [CAPS])

    assert strange.state is DrafterState.BROKEN


def test_a_drafter_that_raises_while_learning_is_broken():
    """Learning is no more trusted than drafting."""
    learner = counts({})

    def learn(context):
        raise RuntimeError("full")

    learner.learn = learn
    pool = DrafterPool([learner], vocab_size=10)
    emit(pool, sequence("a"), 3)

    assert (learner.state, learner.reason) == (DrafterState.BROKEN, "RuntimeError: full")


def test_a_drafter_that_raises_when_a_sequence_ends_is_broken():
    """And the sequence ends all the same."""
    drafter = counts({})

    def fail(_):
        raise RuntimeError("no")

    drafter.forget = fail
    pool = DrafterPool([drafter], vocab_size=10)
    pool.forget(sequence("a"))

    assert (drafter.state, drafter.reason) == (DrafterState.BROKEN, "RuntimeError: no")


def test_a_drafter_that_raises_while_drafting_is_broken_and_the_others_draft_on():
    """In that step too: a head that fails doesn't take look-up's draft with it."""
    failing = head()

    def fail(contexts):
        raise RuntimeError("no such kernel")

    failing.propose = fail
    pool = DrafterPool([failing, counts({"a": (3, 4)})], vocab_size=10)

    report = pool.draft([sequence("a"), sequence("b")], [CAPS, CAPS])

    assert [proposal.token_ids for proposal in report.proposals] == [(3, 4), ()]
    assert (failing.state, failing.reason) == (DrafterState.BROKEN, "RuntimeError: no such kernel")


@pytest.mark.parametrize("token_id", [-1, 10])
def test_tokens_outside_the_vocabulary_break_the_drafter(token_id):
    """They'd be read from beside the target's embeddings."""
    strange = head()
    strange.propose = lambda contexts: [Draft(token_ids=(7, token_id))]
    pool = DrafterPool([strange], vocab_size=10)

    report = pool.draft([sequence("a")], [CAPS])

    assert (report.proposals, strange.state) == ((Proposal(),), DrafterState.BROKEN)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(token_ids=(7.0,)),
        Draft(token_ids=[7]),
        Draft(token_ids=(7,), confidences=()),
        Draft(token_ids=(7,), confidences=(0.5, 0.5)),
        Draft(token_ids=(7,), confidences=("sure",)),
    ],
)
def test_what_is_no_draft_breaks_the_drafter_and_no_request(draft):
    """Whatever it is made of: the others draft on."""
    strange = head()
    strange.propose = lambda contexts: [draft] * len(contexts)
    pool = DrafterPool([strange, counts({"a": (3, 4)})], vocab_size=10)

    report = pool.draft([sequence("a"), sequence("b")], [CAPS, CAPS])

    assert ([p.token_ids for p in report.proposals], strange.state) == ([(3, 4), ()], DrafterState.BROKEN)


def test_of_a_draft_longer_than_asked_for_the_first_tokens_count():
    """A drafter that ignores its limit takes no rows beyond the table's."""
    eager = head()
    eager.propose = lambda contexts: [Draft(token_ids=(7,) * 9, confidences=(0.9,) * 9) for _ in contexts]
    pool = DrafterPool([eager], vocab_size=10)

    report = pool.draft([sequence("a")], [{"head": 3}], bound={0})

    assert (report.proposals[0].token_ids, eager.state) == ((7, 7, 7), DrafterState.ACTIVE)
