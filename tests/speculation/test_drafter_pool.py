"""Who is asked for which sequence, what is composed of their drafts, and what is learned from the emitted text."""

from __future__ import annotations

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.asking import SAMPLED_EVERY
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal, Turn, turns
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_policy.wire import DrafterState, DrafterType
from fakes import FakeDrafter


def sequence(name, tenant=""):
    return LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=(1, 2),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
            tenant=tenant,
        )
    )


def counts(known, name="counts"):
    """A count-based drafter that knows some sequences; it proposes nothing after another's tokens."""
    return FakeDrafter(
        name=name,
        type=DrafterType.NGRAM,
        draft=lambda context: () if context.ahead else known.get(context.request_id, ()),
    )


def head():
    return FakeDrafter(name="head", draft=lambda _: [7, 7, 7, 7])


def emit(pool, live, *token_ids):
    live.token_ids.extend(token_ids)
    return pool.learn(live)


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


def test_the_wrong_number_of_drafts_breaks_the_drafter():
    """Drafts can't be told apart then; none of them is used."""
    strange = head()
    strange.propose = lambda contexts: []
    pool = DrafterPool([strange], vocab_size=10)

    report = pool.draft([sequence("a")], [CAPS])

    assert report.proposals == (Proposal(),)
    assert (strange.state, strange.reason[:26]) == (DrafterState.BROKEN, "0 drafts for 1 sequences, ")


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


class PricedHead:
    """Says 7 four times, sure of it, and takes 10 ms by the pool's clock for each token that it is asked for."""

    name, type, state, reason, revision = "head", DrafterType.HEAD, DrafterState.ACTIVE, "", None

    def __init__(self, monkeypatch):
        self.asked, self._seconds = [], 0.0
        monkeypatch.setattr("bowsprit_engine.speculation.pool.time.perf_counter", lambda: self._seconds)

    def wait(self, seconds):
        self._seconds += seconds

    def propose(self, contexts):
        self.asked += [context.max_draft_tokens for context in contexts]
        self._seconds += 0.01 * sum(context.max_draft_tokens for context in contexts)
        lengths = [context.max_draft_tokens for context in contexts]
        return [Draft(token_ids=(7,) * length, confidences=(0.9,) * length) for length in lengths]

    def forget(self, request_id):
        pass


def asked_lengths(
    monkeypatch, *, num_right, step_seconds, batch=1, bound=(), is_contended=False, seconds_to_handle=0.0
):
    """The last lengths asked of a head whose first `num_right` tokens come true, never more.

    `seconds_to_handle`: what the pool takes for each of its drafts, but for making it.
    """
    head = PricedHead(monkeypatch)
    pool = DrafterPool([head], vocab_size=10)
    believe = pool.candidate

    def believe_slowly(*args, **kwargs):
        head.wait(seconds_to_handle)
        return believe(*args, **kwargs)

    monkeypatch.setattr(pool, "candidate", believe_slowly)
    live = [sequence(f"{index}") for index in range(batch)]
    for _ in range(60):
        pool.note_step(step_seconds, is_contended=is_contended)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * batch, bound=bound)
        for one in live:
            emit(pool, one, *[7] * num_right, 5)
    return head.asked


@pytest.mark.parametrize(("num_right", "length"), [(4, 4), (1, 1), (0, None)])
def test_a_head_is_asked_for_as_many_tokens_as_pay(monkeypatch, num_right, length):
    """A token costs a tenth of a step: none that never comes true is asked for, nor any where none does."""
    assert asked_lengths(monkeypatch, num_right=num_right, step_seconds=0.1) == ([] if length is None else [length])


def test_a_head_that_is_dearer_than_what_it_brings_is_not_asked_even_where_nobody_else_drafts(monkeypatch):
    """All four tokens come true and take eight steps."""
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.005) == []


def test_on_a_machine_that_is_never_quiet_a_head_has_its_price_too(monkeypatch):
    """Contended steps are as slow as contended drafts; the first quiet step counts more than all of them."""
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.005, is_contended=True) == []
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.1, is_contended=True) == [4]
    pool = DrafterPool([PricedHead(monkeypatch)], vocab_size=10)
    for seconds, is_contended in ((9.0, True), (0.1, False), (9.0, True)):
        pool.note_step(seconds, is_contended=is_contended)
    assert pool.step_seconds == 0.1


def test_a_head_keeps_the_whole_batch_waiting(monkeypatch):
    """What pays for one sequence alone doesn't where eight wait for eight drafts."""
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.04) == [1]
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.04, batch=8) == []


def test_what_the_pool_does_with_a_draft_is_part_of_its_price(monkeypatch):
    """A token for 10 ms pays for eight in steps of 500 ms, and doesn't where the pool takes 30 ms more of each."""
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, batch=8) == [1] * 8
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, batch=8, seconds_to_handle=0.03) == []
    assert len(asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, seconds_to_handle=0.03)) == 1


def test_a_head_that_is_not_worth_asking_is_looked_at_at_every_eighth_step_only(monkeypatch):
    """Weighing it costs what look-up costs; once steps are slow it is asked again."""
    head = PricedHead(monkeypatch)
    pool, live = DrafterPool([head], vocab_size=10), [sequence("a"), sequence("b")]
    weigh, weighed, asked = pool.draft_worth_asking, [], []

    def counted(*args, **kwargs):
        weighed.append(step)
        return weigh(*args, **kwargs)

    monkeypatch.setattr(pool, "draft_worth_asking", counted)
    for step in range(200):
        pool.note_step(0.001 if step < 150 else 10.0)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * 2)
        asked.append(bool(head.asked))
        for one in live:
            emit(pool, one, 7, 7, 7, 7, 5)

    assert len({step for step in weighed if 50 <= step < 146}) == 96 // SAMPLED_EVERY
    assert not any(asked[50:150])
    assert any(asked[150 : 150 + 2 * SAMPLED_EVERY])


class SlowOnce(PricedHead):
    """One call takes five minutes more."""

    def __init__(self, monkeypatch, *, call):
        super().__init__(monkeypatch)
        self._calls_before = call

    def propose(self, contexts):
        if self._calls_before == 0:
            self.wait(300.0)
        self._calls_before -= 1
        return super().propose(contexts)


@pytest.mark.parametrize("call", [0, 40])
def test_one_slow_answer_shuts_no_head_up(monkeypatch, call):
    """A first call on cold weights, or one that somebody else interrupted."""
    head = SlowOnce(monkeypatch, call=call)
    pool, live = DrafterPool([head], vocab_size=10), [sequence("a"), sequence("b")]
    asked = []
    for _ in range(80):
        pool.note_step(1.0)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * 2)
        asked.append(bool(head.asked))
        for one in live:
            emit(pool, one, 7, 7, 7, 7, 5)

    assert all(asked)


def test_a_head_that_was_hopeless_is_asked_again_once_probes_come_true(monkeypatch):
    """In answers that are each probed once: what heads got there in the last hundred tokens or so counts for all."""
    head = PricedHead(monkeypatch)
    pool = DrafterPool([head], vocab_size=10)

    def asked(name, *, is_right, is_probe):
        one = sequence(name)
        pool.note_step(0.1)
        head.asked.clear()
        pool.draft([one], [{"head": 4}], bound=[0] if is_probe else [])
        emit(pool, one, *([7] * 4 if is_right else []), 5)
        pool.forget(one)
        return head.asked

    for index in range(1000):
        asked(f"wrong {index}", is_right=False, is_probe=index % 10 == 0)
    assert asked("hopeless", is_right=False, is_probe=False) == []
    for index in range(20):
        asked(f"probed {index}", is_right=True, is_probe=True)
    assert asked("hopeful", is_right=True, is_probe=False) != []


def test_a_sequence_that_is_bound_to_draft_gets_the_head_s_draft_up_to_its_cap(monkeypatch):
    """A probe measures far positions too."""
    assert asked_lengths(monkeypatch, num_right=0, step_seconds=0.005, bound=[0]) == [4]


def test_what_is_held_at_zero_is_scored_on_the_emitted_text():
    """A draft waits until a token differs, and the next one is made then; nothing is proposed."""
    pool = DrafterPool([counts({"a": [4, 5, 6]})], vocab_size=10)
    live = sequence("a")

    watched = []
    for token in (4, 5, 9, 9):
        report = pool.draft([live], [{}], watch=[3])
        assert (report.proposals, report.asked) == ((Proposal(),), {})
        watched.append(emit(pool, live, token))

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


def test_a_drafter_that_raises_while_learning_is_broken():
    """Learning is no more trusted than drafting."""
    learner = counts({})

    def learn(context):
        raise RuntimeError("full")

    learner.learn = learn
    pool = DrafterPool([learner], vocab_size=10)
    emit(pool, sequence("a"), 3)

    assert (learner.state, learner.reason) == (DrafterState.BROKEN, "RuntimeError: full")


def test_confidences_of_another_number_than_tokens_break_the_drafter():
    """They can't be told apart."""
    strange = head()
    strange.propose = lambda contexts: [Draft(token_ids=(1, 2), confidences=(0.5,))]
    pool = DrafterPool([strange], vocab_size=10)
    pool.draft([sequence("a")], [CAPS])

    assert strange.state is DrafterState.BROKEN


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


@pytest.mark.parametrize(
    ("num_accepted", "num_emitted", "expected"),
    [
        (0, 1, [("head", 0, 2, 2, 1), ("counts", 2, 3, 4, 1)]),
        (3, 4, [("head", 0, 2, 2, 4), ("counts", 2, 3, 4, 4)]),
        (3, 3, [("head", 0, 2, 2, 3), ("counts", 2, 3, 4, 3)]),  # the last draft ended the sequence
    ],
)
def test_each_position_is_the_turn_of_whose_token_stands_there(num_accepted, num_emitted, expected):
    """Only the last drafter could have gone on, within its cap; a position after the end was never judged."""
    proposal = Proposal(token_ids=(7, 7, 8), sources=("head", "head", "counts"), survivals=(0.9, 0.8, 0.7))
    found = turns(
        proposal,
        asked=("counts", "head"),
        caps={"head": 5, "counts": 4},
        num_accepted=num_accepted,
        num_emitted=num_emitted,
    )

    assert [(t.drafter, t.begin, t.end, t.limit, t.num_judged) for t in found] == expected


def test_where_nothing_was_drafted_it_was_everybodys_turn():
    """Of all who were asked: each could have begun."""
    found = turns(Proposal(), asked=("counts",), caps={"counts": 4}, num_accepted=0, num_emitted=1)

    assert found == [Turn(drafter="counts", begin=0, end=0, limit=1, num_judged=1, num_accepted=0)]


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


def test_forced_tokens_are_no_turn_of_any_drafter():
    """Its turn begins where they end; without any of its own it had none."""
    both = Proposal(token_ids=(8, 9, 4), sources=("", "", "counts"), survivals=(0.9, 0.9, 0.5))

    assert turns(both, asked=("counts",), caps={"counts": 1}, num_accepted=3, num_emitted=4) == [
        Turn(drafter="counts", begin=2, end=3, limit=3, num_judged=4, num_accepted=3)
    ]
    assert turns(both.cut(2), asked=("counts",), caps={"counts": 1}, num_accepted=2, num_emitted=3) == []
    assert both.drafter == ""


def test_a_drafter_that_raises_when_a_sequence_ends_is_broken():
    """And the sequence ends all the same."""
    drafter = counts({})

    def fail(_):
        raise RuntimeError("no")

    drafter.forget = fail
    pool = DrafterPool([drafter], vocab_size=10)
    pool.forget(sequence("a"))

    assert (drafter.state, drafter.reason) == (DrafterState.BROKEN, "RuntimeError: no")
