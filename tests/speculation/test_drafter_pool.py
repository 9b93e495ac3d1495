"""Who is asked for which sequence, what is composed of their drafts, and what is learned from the emitted text."""

from __future__ import annotations

from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_policy.wire import DrafterState, DrafterType
from fakes import FakeDrafter
from speculation.pool_drafters import counts, emit, head, sequence

CAPS = {"counts": 2, "head": 3}


def test_the_head_drafts_where_counts_have_no_match():
    """Count-based first, whatever the order of configuration; each within its cap; counted by who was asked."""
    pool = DrafterPool([head(), counts({"a": [4, 5, 6]})], vocab_size=10)

    report = pool.draft([sequence("a"), sequence("b")], [CAPS, CAPS])

    assert [(p.token_ids, p.drafter) for p in report.proposals] == [((4, 5), "counts"), ((7, 7, 7), "head")]
    assert (report.asked, report.proposed) == ({"counts": 2, "head": 1}, {"counts": 1, "head": 1})
    assert report.asked_by_sequence == (("counts",), ("counts", "head"))


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


def test_a_count_based_drafter_goes_on_after_the_heads_tokens():
    """It sees them as `ahead`, has what its cap leaves, and its tokens are told as its own."""
    seen = []

    def follow(context):
        seen.append((context.ahead, context.max_draft_tokens))
        return [8, 9] if context.ahead else ()

    pool = DrafterPool([head(), FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=follow)], vocab_size=10)

    (proposal,) = pool.draft([sequence("a")], [{"counts": 5, "head": 3}]).proposals

    assert (proposal.token_ids, proposal.sources) == ((7, 7, 7, 8, 9), ("head",) * 3 + ("counts",) * 2)
    assert seen == [((), 5), ((7, 7, 7), 2)]
    assert list(proposal.survivals) == sorted(proposal.survivals, reverse=True)


def test_what_two_drafters_agree_on_is_believed_as_often_as_it_came():
    """One of them says 7 at every step; where the other does too it comes, where not it doesn't."""
    said = {"steady": [7], "other": [7]}
    pool = DrafterPool(
        [FakeDrafter(name=name, type=DrafterType.NGRAM, draft=lambda _, name=name: said[name]) for name in said],
        vocab_size=10,
    )
    live, survivals = sequence("r"), {}
    for step in range(80):
        said["other"] = [7] if step % 2 else [8]
        (proposal,) = pool.draft([live], [{"steady": 1, "other": 1}]).proposals
        survivals[step % 2] = proposal.survivals[0] if proposal.token_ids == (7,) else 0.0
        emit(pool, live, 7 if step % 2 else 9)

    assert survivals[1] > 0.8 > 0.2 > survivals[0]


def test_the_drafter_whose_tokens_matched_is_chosen_of_two():
    """Both are scored on what was emitted, though only one draft of each step is proposed."""
    pool = DrafterPool([counts({"a": [4]}, "wrong"), counts({"a": [5]}, "right")], vocab_size=10)
    live = sequence("a")
    caps = [{"wrong": 1, "right": 1}]
    first = pool.draft([live], caps).proposals[0].drafter
    emit(pool, live, 5)
    for _ in range(10):
        chosen = pool.draft([live], caps).proposals[0].drafter
        emit(pool, live, 5)

    assert (first, chosen) == ("wrong", "right")


def test_a_head_that_gains_more_than_the_counts_is_asked_and_chosen():
    """Where nobody else proposes it shows what it is worth; from then on it competes."""
    pool = DrafterPool([counts({"b": [4, 4, 4]}), head()], vocab_size=10)
    alone, both = sequence("a"), sequence("b")
    caps = {"counts": 3, "head": 3}
    asked_at_first = pool.draft([both], [caps]).asked_by_sequence
    emit(pool, both, 5)
    for _ in range(30):
        pool.draft([alone, both], [caps, caps])
        emit(pool, alone, 7, 7, 7, 7)
        emit(pool, both, 7, 7, 7, 7)

    report = pool.draft([both], [caps])

    assert asked_at_first == (("counts",),)
    assert report.proposals[0].drafter == "head"


def test_a_head_that_costs_more_than_it_gains_is_not_asked_where_counts_propose():
    """A head that drafts for longer than a step takes can't pay, however right it is."""
    pool = DrafterPool([counts({"b": [7, 4]}), head()], vocab_size=10)
    alone, both = sequence("a"), sequence("b")
    for _ in range(30):
        pool.draft([alone], [{"head": 3}])
        emit(pool, alone, 7, 7, 7, 7)
    pool.note_step(1e-9)

    assert pool.draft([both], [{"counts": 2, "head": 3}]).asked_by_sequence == (("counts",),)


def test_what_is_held_at_zero_is_scored_on_the_emitted_text():
    """A draft waits until a token differs, and the next one is made then; nothing is proposed."""
    pool = DrafterPool([counts({"a": [4, 5, 6]})], vocab_size=10)
    live = sequence("a")

    watched = []
    for token in (4, 5, 9, 9):
        report = pool.draft([live], [{}], watch=[3])
        assert (report.proposals, report.asked) == ((Proposal(),), {})
        watched.append([*emit(pool, live, token)])

    assert watched == [
        [],
        [],
        [Watched(drafter="counts", num_drafted=3, num_matched=2)],
        [Watched(drafter="counts", num_drafted=3, num_matched=0)],
    ]


def test_a_sequence_that_ends_scores_as_far_as_it_went():
    """What wasn't emitted neither matched nor failed to."""
    pool = DrafterPool([counts({"a": [4, 5, 6]})], vocab_size=10)
    live = sequence("a")
    pool.draft([live], [{}], watch=[3])
    emit(pool, live, 4)

    assert pool.forget(live) == [Watched(drafter="counts", num_drafted=1, num_matched=1)]


def test_drafters_learn_every_token_and_know_the_tenant():
    """Also where nobody drafted, and the whole answer before it is forgotten."""
    learner = counts({})
    seen = []
    learner.learn = lambda context: seen.append((tuple(context.token_ids), context.num_prompt_tokens, context.tenant))
    pool = DrafterPool([learner], vocab_size=10)
    live = sequence("a", tenant="blue")
    emit(pool, live, 3)
    live.token_ids.append(4)
    pool.forget(live)

    assert seen == [((1, 2, 3), 2, "blue"), ((1, 2, 3, 4), 2, "blue")]
    assert learner.forgotten == ["a"]


def test_a_request_whose_drafts_fail_is_believed_less_than_its_neighbour():
    """Each sequence has a fortune of its own, beside what all have in common."""
    pool = DrafterPool([counts({"good": [4], "bad": [5]})], vocab_size=10)
    good, bad = sequence("good"), sequence("bad")
    for _ in range(12):
        pool.draft([good, bad], [{"counts": 1}] * 2)
        emit(pool, good, 4)
        emit(pool, bad, 4)

    believed, doubted = pool.draft([good, bad], [{"counts": 1}] * 2).proposals

    assert believed.survivals[0] > 2 * doubted.survivals[0]
