"""Who is asked how often: a drafter whose drafts come true at every step, a hopeless one at every eighth or less."""

from __future__ import annotations

import gc
import weakref

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.asking import SAMPLED_EVERY, SELDOM, Record
from bowsprit_engine.speculation.confidence import Rate
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.ledger_in_python import LedgerInPython
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.prices import MOST_PRICE
from bowsprit_engine.speculation.scoring import PROMISE
from bowsprit_policy.wire import DrafterState, DrafterType

TRUTH, WRONG = 1, 2
ASKING = 2e-4  # seconds
STEP = 1e-2  # seconds: asking costs too much for what is hopeless, and little at every eighth step
SHORT_STEP = 1e-3  # seconds: asking for all at every eighth step would be dear beside it


def pool_of(*drafters, **more):
    """Nothing takes time but asking these."""
    counting = [drafter for drafter in drafters if isinstance(drafter, CountingDrafter)]
    return DrafterPool(
        drafters, vocab_size=8, clock=lambda: sum(drafter.num_calls * drafter.seconds for drafter in counting), **more
    )


class CountingDrafter:
    """Says one token, right from some length of the text on, or nothing; and counts how often it was asked."""

    type = DrafterType.NGRAM
    reason = ""
    revision = None
    seconds = ASKING
    num_calls = 0

    def __init__(self, *, right_from=None, is_silent=False):
        self.name, self.state = "counts", DrafterState.ACTIVE
        self.right_from, self.is_silent, self.asked_at = right_from, is_silent, []

    def propose(self, contexts):
        self.num_calls += 1
        return [self._one(len(context.token_ids)) for context in contexts]

    def _one(self, length):
        self.asked_at.append(length)
        is_right = self.right_from is not None and length >= self.right_from
        return Draft(token_ids=() if self.is_silent else (TRUTH if is_right else WRONG,))

    def forget(self, request_id):
        pass


def live_sequence(request_id):
    return LiveSequence.begin(
        Request(
            request_id=request_id,
            prompt_token_ids=(TRUTH,),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
        )
    )


def run(pool, *, steps, cap=4, watch=0, request_id="r", bound_at=lambda step: False, step_seconds=STEP):
    """One token after another of the same text; per step, for how many sequences the drafter counts as asked."""
    live = live_sequence(request_id)
    asked = []
    for step in range(steps):
        is_bound = bound_at(step)
        caps = {"counts": 4 if is_bound else cap}
        report = pool.draft([live], [caps], watch=[watch], bound=[0] if is_bound else [])
        pool.grant([live], report.proposals)
        asked.append(report.asked.get("counts", 0))
        live.token_ids.append(TRUTH)
        pool.learn(live)
        pool.note_step(step_seconds)
    pool.forget(live)
    return asked


def late(drafter):
    """How often it was asked in the second half of 400 steps: what it is worth is known then."""
    return sum(at > 200 for at in drafter.asked_at)


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_hopeless_drafter_is_asked_at_every_eighth_step_and_counts_as_asked_at_each(is_silent):
    """Else tokens per step would be those of the steps in which it was asked: E is never flattered."""
    drafter = CountingDrafter(is_silent=is_silent)

    asked = run(pool_of(drafter), steps=400)

    assert asked == [1] * 400
    assert late(drafter) == 200 // SAMPLED_EVERY


def test_a_drafter_that_comes_true_is_asked_at_every_step():
    """Whatever it costs: it pays."""
    drafter = CountingDrafter(right_from=0)
    run(pool_of(drafter), steps=100)

    assert drafter.asked_at == list(range(1, 101))


@pytest.mark.parametrize(("step_seconds", "within"), [(STEP, SAMPLED_EVERY), (SHORT_STEP, SELDOM)])
def test_a_text_that_begins_to_repeat_itself_is_noticed_within_eight_steps_or_a_few_more(step_seconds, within):
    """From the first draft that comes true on, every step asks."""
    drafter = CountingDrafter(right_from=200)
    run(pool_of(drafter), steps=300, step_seconds=step_seconds)

    noticed = min(at for at in drafter.asked_at if at >= 200)
    assert noticed < 200 + within
    assert [at for at in drafter.asked_at if at >= 200] == list(range(noticed, 301))


def test_a_hopeless_drafter_is_asked_more_seldom_where_that_takes_much_of_a_step():
    """A fifth of each eighth step would be 2.5 % of all."""
    drafter = CountingDrafter()

    run(pool_of(drafter), steps=400, step_seconds=SHORT_STEP)

    assert late(drafter) == 200 // SELDOM


def test_the_step_that_asks_what_is_hopeless_asks_for_all_sequences():
    """The others ask for none."""
    drafter = CountingDrafter()
    pool = pool_of(drafter)
    run(pool, steps=1000, step_seconds=4 * STEP)
    drafter.asked_at.clear()
    lives = [live_sequence(f"{n}") for n in range(3)]
    num_asked = []
    for _ in range(2 * SAMPLED_EVERY):
        pool.draft(lives, [{"counts": 4}] * 3)
        num_asked.append(len(drafter.asked_at))
        drafter.asked_at.clear()

    assert sorted(num_asked) == [0] * (2 * SAMPLED_EVERY - 2) + [3, 3]


def test_a_sequence_that_joins_a_batch_of_which_nothing_is_worth_asking_has_an_entry_and_a_chance_of_its_own():
    """And whoever may not draft any more is no opportunity."""
    drafter = CountingDrafter()
    pool = pool_of(drafter)
    run(pool, steps=100)
    old, new = live_sequence("old"), live_sequence("new")
    reports = [
        pool.draft(sequences, [{"counts": cap}] * len(sequences))
        for sequences, cap in (([old], 4), ([old], 4), ([old, new], 4), ([old, new], 0), ([new], 4))
    ]

    assert [len(report.proposals) for report in reports] == [1, 1, 2, 2, 1]
    assert [report.asked for report in reports] == [{"counts": 1}, {"counts": 1}, {"counts": 2}, {}, {"counts": 1}]
    assert [report.asked_by_sequence for report in reports[2:4]] == [(("counts",), ("counts",)), ((), ())]


@pytest.mark.parametrize(("verified", "worth"), [(1, 1.0), (0, PROMISE)])
def test_a_token_that_matched_and_was_not_verified_is_worth_but_a_part_of_one_that_was(verified, worth):
    """It brought nothing, since a row cost more than it promised; but where it matched, more may."""
    drafter = CountingDrafter(right_from=0)
    pool, live = pool_of(drafter, ledger=LedgerInPython), live_sequence("r")
    report = pool.draft([live], [{"counts": 4}])
    pool.grant([live], [report.proposals[0].cut(verified)])
    live.token_ids.append(TRUTH)
    pool.learn(live)

    assert pool.state.ledger.scores.record(drafter.name, live).own == Rate(matched=worth, judged=1.0)


def test_a_drafter_that_says_what_another_one_is_believed_for_is_worth_asking_too():
    """Whose word it is makes no difference: the next time it may be the only one."""
    one, other = CountingDrafter(right_from=0), CountingDrafter(right_from=0)
    one.name, other.name = "one", "other"
    pool = pool_of(one, other)
    live = live_sequence("r")
    for _ in range(100):
        report = pool.draft([live], [{"one": 4, "other": 4}])
        pool.grant([live], report.proposals)
        live.token_ids.append(TRUTH)
        pool.learn(live)
        pool.note_step(STEP)

    assert (len(one.asked_at), len(other.asked_at)) == (100, 100)


def test_what_all_sequences_said_of_a_drafter_is_known_to_the_next_one():
    """On hopeless traffic a new request doesn't begin in good faith."""
    drafter = CountingDrafter()
    pool = pool_of(drafter)
    for index in range(20):
        run(pool, steps=40, request_id=f"{index}")
    drafter.asked_at.clear()
    run(pool, steps=40, request_id="next")

    assert len(drafter.asked_at) <= 40 // SAMPLED_EVERY + 1


def test_a_hopeless_drafter_that_is_held_at_0_is_watched_at_every_eighth_step():
    """Watching costs what drafting costs, and gains nothing."""
    drafter = CountingDrafter()
    run(pool_of(drafter), steps=400, cap=0, watch=4)

    assert late(drafter) == 200 // SAMPLED_EVERY


def test_who_drafts_up_to_its_cap_whether_it_pays_or_not_is_asked_at_every_step():
    """In mode Fixed, say."""
    drafter = CountingDrafter()
    run(pool_of(drafter), steps=100, bound_at=lambda step: True)

    assert drafter.asked_at == list(range(1, 101))


def test_a_probe_of_a_hopeless_drafter_that_is_held_at_0_asks_it():
    """Whenever the last sample was."""
    drafter = CountingDrafter()
    run(pool_of(drafter), steps=400, cap=0, watch=4, bound_at=lambda step: step % 7 == 0)

    assert {1 + step for step in range(0, 400, 7)} <= set(drafter.asked_at)


class WrongFollower(CountingDrafter):
    """Has nothing to begin with, and goes on after another's tokens, wrongly until the text is so long."""

    def propose(self, contexts):
        self.num_calls += 1
        return [self._one(len(one.token_ids)) if one.ahead else Draft(token_ids=()) for one in contexts]


class TrueHead(CountingDrafter):
    """Says one token, the right one, and takes no time."""

    type = DrafterType.HEAD
    seconds = 0.0

    def __init__(self):
        super().__init__(right_from=0)
        self.name = "head"


def followed_lengths(follower, *, steps, batch=1):
    """The lengths at which it was asked what follows a head's tokens, all of which come true."""
    pool = pool_of(follower, TrueHead())
    lives = [live_sequence(f"{index}") for index in range(batch)]
    for _ in range(steps):
        report = pool.draft(lives, [{"counts": 4, "head": 1}] * batch)
        pool.grant(lives, report.proposals)
        for live in lives:
            live.token_ids += [TRUTH, TRUTH]
            pool.learn(live)
        pool.note_step(batch * STEP)
    return follower.asked_at


def test_what_follows_a_heads_tokens_is_looked_up_where_that_comes_true():
    """At every step then; at every eighth where it never does."""
    hopeless = followed_lengths(WrongFollower(), steps=400)
    hopeful = followed_lengths(WrongFollower(right_from=0), steps=400)

    assert len([at for at in hopeless if at > 400]) == 200 // SAMPLED_EVERY
    assert len(hopeful) == 400


def test_what_follows_a_heads_tokens_is_looked_up_again_within_eight_steps_once_it_comes_true():
    """And at every step from then on."""
    asked = followed_lengths(WrongFollower(right_from=401), steps=300)

    noticed = min(at for at in asked if at >= 401)
    assert noticed < 401 + 2 * SAMPLED_EVERY
    assert [at for at in asked if at >= 401] == list(range(noticed, 601, 2))


class Text(list):
    """A list that may be watched."""


def test_nothing_is_kept_of_a_text_that_ended():
    """Contexts hold the live tokens: they end with their sequence, also where a drafter learned last."""
    pool = pool_of(CountingDrafter(), SuffixDrafter(name="suffix"))
    live = live_sequence("r")
    live.token_ids = Text(live.token_ids)
    text = weakref.ref(live.token_ids)
    pool.draft([live], [{"counts": 4, "suffix": 4}])
    live.token_ids.append(TRUTH)
    pool.learn(live)
    pool.forget(live)
    del live
    gc.collect()

    assert text() is None


def test_one_token_in_five_drafts_is_worth_asking_and_one_in_a_hundred_is_not():
    """At the highest price there is."""
    overall = Rate()
    often, seldom = Record(overall=overall), Record(overall=overall)
    for index in range(500):
        often.add(int(index % 5 == 0))
        seldom.add(int(index % 100 == 50))

    assert often.worth >= MOST_PRICE > seldom.worth
