"""For whom a head is asked: one call for the batch, at a length at which the sum pays."""

from __future__ import annotations

from bowsprit_engine.speculation.costly import Wish, whom_to_ask

HOPEFUL = (0.5, 0.75, 0.875, 0.9)


def wishes(batch, added=HOPEFUL):
    return [Wish(index=index, added=added) for index in range(batch)]


def asked(of, *, call=lambda tokens: 0.1 + 0.01 * tokens, each=0.0, **more):
    return dict(whom_to_ask(of, call=call, each=each, step_tokens=float(len(of)), **more))


def test_a_call_that_is_mostly_fixed_is_paid_by_several_sequences_together():
    """Each brings a tenth of a token; alone none of them pays for the call, nor do they if each had one of its own."""
    of = wishes(8, added=(0.2,))

    assert asked(of[:1], call=lambda tokens: 0.25) == {}
    assert asked(of, call=lambda tokens: 0.15) == dict.fromkeys(range(8), 1)
    assert asked(of, call=lambda tokens: 0.25) == {}


def test_it_is_asked_for_the_length_with_the_most_tokens_net():
    """The dearer a token the shorter; a sequence that may have fewer is asked for those."""
    of = [*wishes(3), Wish(index=3, added=(0.5,))]

    assert asked(of, call=lambda tokens: 0.0) == {0: 4, 1: 4, 2: 4, 3: 1}
    assert asked(of, call=lambda tokens: 0.05 * tokens) == {0: 2, 1: 2, 2: 2, 3: 1}


def test_it_is_not_asked_where_a_sequence_has_a_better_draft_already():
    """The others are, and the call is theirs to pay."""
    of = [*wishes(2), Wish(index=2, added=(0.0, 0.0, 0.0, 0.0))]

    assert set(asked(of)) == {0, 1}


def test_a_draft_that_is_not_worth_handling_is_left_out_of_the_call():
    """What the pool does with each is paid by each."""
    of = [*wishes(4), Wish(index=4, added=(0.1, 0.1, 0.1, 0.1))]

    assert set(asked(of, each=0.03)) == {0, 1, 2, 3}


def test_a_call_that_is_made_for_others_anyway_costs_only_what_it_is_longer():
    """A probe of four tokens: one sequence more takes nothing."""
    of = wishes(1, added=(0.05, 0.06, 0.07, 0.08))

    assert asked(of) == {}
    assert asked(of, at_least=4) == {0: 4}


def test_nobody_is_asked_where_nobody_may_draft():
    """Nor does it cost anything to see."""
    assert asked([]) == {}
