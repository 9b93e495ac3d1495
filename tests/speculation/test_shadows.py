"""When a shadow drafts and for whom, how it is scored beside who serves, and what a bad one may not do."""

from __future__ import annotations

import gc
import logging
import re
import weakref

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.shadow import MOST_DRAFT_TOKENS, SHARE, Candidate, Shadows
from bowsprit_policy.wire import DrafterState, DrafterType
from fakes import FAKE_VOCAB, FakeDrafter
from speculation.revised_head import BAD_FILES, RevisedHead, guessing, raising, replaying

STEP_SECONDS = 0.01
NUM_TOKENS = 6000
TEXT = [(7 * i) % 50 for i in range(NUM_TOKENS)]
CANDIDATE = Candidate(revision="new", uri="file:///claims/new", sha256="a" * 64)


class Clock:
    """Stands still but for what is spent."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def costing(self, seconds, weights):
        """The weights, each draft taking `seconds()`."""

        def answer(contexts):
            self.now += seconds()
            return weights(contexts)

        return answer


def live(name="r", *, enabled=True, max_tokens=NUM_TOKENS, hidden=True):
    """A sequence that has emitted one token."""
    sequence = LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=(1, 2),
            sampling=SamplingParams(seed=0, max_tokens=max_tokens),
            speculation=SpeculationParams(enabled=enabled),
            on_output=lambda _: None,
        )
    )
    sequence.hidden = object() if hidden else None
    emit(sequence)
    return sequence


def emit(sequence, count=1):
    """The text's next tokens."""
    done = len(sequence.token_ids) - 2
    sequence.token_ids.extend(TEXT[done : done + count])
    sequence.num_computed = len(sequence.token_ids) - 1


def right(*names):
    return replaying({name: [1, 2, *TEXT] for name in names or ("r",)})


def shadowed(weights, *, serving=None, clock=None, name="head", draft_tokens_max=4):
    """Shadows with one candidate, and its drafter, which serves revision `old` where `serving` is given."""
    drafter = RevisedHead({}, name=name)
    if serving is not None:
        drafter.swap_in(("old", serving))
    shadows = Shadows(vocab_size=FAKE_VOCAB, clock=clock or Clock())
    shadows.put(drafter, CANDIDATE, ("new", weights), draft_tokens_max=draft_tokens_max)
    return shadows, drafter


def run(shadows, sequences, *, steps, tokens=1):
    for _ in range(steps):
        for sequence in sequences:
            emit(sequence, tokens)
        shadows.after_step(sequences, seconds=STEP_SECONDS)


@pytest.mark.parametrize(("cost_in_steps", "least"), [(0.01, 0.2), (0.3, 0.9), (1.0, 0.9), (4.0, 0.9)])
def test_its_seconds_stay_within_the_share_whatever_a_draft_costs(cost_in_steps, least):
    """Dear ones draft seldom, cheap ones as soon as the one before is scored; the time of who serves is included."""
    clock = Clock()
    half = cost_in_steps * STEP_SECONDS / 2
    weights, serving = clock.costing(lambda: half, right()), clock.costing(lambda: half, guessing(1))
    shadows, _ = shadowed(weights, serving=serving, clock=clock)

    run(shadows, [live()], steps=5000)

    stats = shadows.stats("head")
    assert stats.step_seconds == pytest.approx(5000 * STEP_SECONDS)
    assert least * SHARE * stats.step_seconds < stats.seconds <= SHARE * stats.step_seconds * (1 + 1e-9)


def test_a_draft_that_takes_much_longer_than_ever_is_paid_before_the_next():
    """One of fifty steps' time: none in the next five thousand."""
    clock, costs = Clock(), iter([50 * STEP_SECONDS])
    shadows, _ = shadowed(clock.costing(lambda: next(costs), right()), clock=clock)

    run(shadows, [live()], steps=5000)

    assert (shadows.stats("head").seconds, list(costs)) == (50 * STEP_SECONDS, [])


def test_both_are_scored_on_the_same_places_by_the_text_that_was_emitted():
    """The candidate is right, who serves errs at the third token: of each row 4 and 2 tokens."""
    shadows, _ = shadowed(right(), serving=replaying({"r": [1, 2, *TEXT]}, wrong_at=2))

    run(shadows, [live()], steps=300)

    stats = shadows.stats("head")
    rows = stats.sequence_steps
    assert rows > 20
    assert (stats.candidate.reached, stats.candidate.matched) == ((rows,) * 4, (rows,) * 4)
    assert (stats.incumbent.reached, stats.incumbent.matched) == ((rows,) * 3, (rows,) * 2)
    assert (stats.candidate.revision, stats.incumbent.revision) == ("new", "old")
    assert stats.squared_differences == 4 * rows


def test_where_nobody_serves_the_candidate_is_scored_alone():
    """The first head of a service."""
    shadows, _ = shadowed(right())
    run(shadows, [live()], steps=300)
    stats = shadows.stats("head")
    assert (stats.incumbent, stats.squared_differences, stats.candidate.matched[0] > 0) == (None, 0, True)


def test_another_incumbent_is_another_comparison():
    """Rows of two revisions are never mixed; the time spent stays."""
    shadows, drafter = shadowed(right(), serving=guessing(1))
    sequence = live()
    run(shadows, [sequence], steps=300)
    before = shadows.stats("head")

    drafter.swap_in(("newer", right()))
    run(shadows, [sequence], steps=10)

    after = shadows.stats("head")
    assert (before.incumbent.revision, after.incumbent.revision) == ("old", "newer")
    assert (after.sequence_steps < before.sequence_steps, after.squared_differences) == (True, 0)
    assert after.step_seconds > before.step_seconds


def test_an_incumbent_that_is_broken_is_not_asked():
    """Its rows would say nothing of the candidate."""
    shadows, drafter = shadowed(right(), serving=raising)
    drafter.state = DrafterState.BROKEN
    run(shadows, [live()], steps=300)
    assert (shadows.stats("head").incumbent, shadows.stats("head").sequence_steps > 0) == (None, True)


def test_an_incumbent_that_raises_beside_its_shadow_is_for_the_pool_to_judge():
    """No row without both; neither of them is called Broken by it."""
    shadows, drafter = shadowed(right(), serving=raising)
    run(shadows, [live()], steps=300)
    stats = shadows.stats("head")
    assert (stats.sequence_steps, stats.state, drafter.state) == (0, DrafterState.ACTIVE, DrafterState.ACTIVE)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raising", "RuntimeError: no such kernel"),
        ("not_finite", r"confidences outside \(0, 1\], .*: \[nan, nan\]"),
        ("outside", rf"tokens outside the vocabulary: \[{FAKE_VOCAB}\]"),
        ("missing", "0 drafts for 1 sequences"),
    ],
)
def test_one_that_raises_or_proposes_nonsense_is_broken_and_its_weights_are_dropped(kind, words, caplog):
    """It is asked once, what it was scored on is void, and who serves hears nothing of it."""

    class Held:
        calls = 0

        def __call__(self, contexts):
            Held.calls += 1
            return BAD_FILES[kind](contexts)

    caplog.set_level(logging.CRITICAL + 1)  # its records would hold the frames of what was raised
    held = Held()
    shadows, drafter = shadowed(held, serving=guessing(1))
    is_held = weakref.ref(held)
    del held

    run(shadows, [live()], steps=400)
    gc.collect()

    stats = shadows.stats("head")
    assert (stats.state, Held.calls, stats.sequence_steps, is_held()) == (DrafterState.BROKEN, 1, 0, None)
    assert re.search(words, stats.reason)
    assert (drafter.state, drafter.reason, drafter.revision) == (DrafterState.ACTIVE, "", "old")
    assert not shadows.holds("head", revision="new", uri=None, sha256=None)


def test_a_broken_one_is_not_promoted():
    """With its reason."""
    shadows, _ = shadowed(raising)
    run(shadows, [live()], steps=200)
    with pytest.raises(SpeculatorError, match="shadow new can't be promoted any more: RuntimeError: no such") as raised:
        shadows.take("head", "new")
    assert raised.value.reason == "ShadowLost"


@pytest.mark.parametrize("revision", ["new", "newer"])
def test_what_is_gone_is_not_promoted(revision):
    """Taken by an earlier call, or never there."""
    shadows, _ = shadowed(right())
    shadows.take("head", "new")
    with pytest.raises(SpeculatorError, match=f"shadow {revision} can't be promoted any more: another call was first"):
        shadows.take("head", revision)


def test_sequences_take_turns():
    """No request pays for all the scores, and none is left out of them."""
    asked = []

    def note(contexts):
        asked.extend(context.request_id for context in contexts)
        return right("a", "b", "c")(contexts)

    clock = Clock()  # at this cost all are free again before the next draft
    shadows, _ = shadowed(clock.costing(lambda: STEP_SECONDS / 5, note), clock=clock)
    run(shadows, [live(name) for name in "abc"], steps=1000)
    assert min(asked.count(name) for name in "abc") > 0.25 * len(asked) > 10


def test_shadows_of_two_drafters_share_the_time_in_turn():
    """Together they take one share."""
    clock = Clock()
    costing = clock.costing(lambda: STEP_SECONDS / 4, right())
    shadows, _ = shadowed(costing, clock=clock, name="one")
    shadows.put(RevisedHead({}, name="two"), CANDIDATE, ("new", costing), draft_tokens_max=4)

    run(shadows, [live()], steps=4000)

    one, two = (shadows.stats(name) for name in ("one", "two"))
    assert abs(one.sequence_steps - two.sequence_steps) <= 2
    assert 0.9 * SHARE < (one.seconds + two.seconds) / one.step_seconds <= SHARE * (1 + 1e-9)


class MovingClock(Clock):
    """As a real one does: no two readings are the same."""

    def __call__(self):
        self.now += 1e-7
        return self.now


def test_a_broken_one_keeps_no_other_waiting():
    """Looking at it takes next to nothing, and that isn't taken from the other's time."""
    clock = MovingClock()
    shadows, _ = shadowed(raising, clock=clock)
    other = clock.costing(lambda: STEP_SECONDS / 4, right())
    shadows.put(RevisedHead({}, name="other"), CANDIDATE, ("new", other), draft_tokens_max=4)

    run(shadows, [live()], steps=2000)

    assert shadows.stats("other").sequence_steps > 20


@pytest.mark.parametrize(
    "sequence",
    [
        live(enabled=False),
        live(hidden=False),
        LiveSequence.begin(live().request),
    ],
    ids=["without speculation", "without the target's state", "prefilling"],
)
def test_who_is_not_drafted_is_not_drafted_beside_either(sequence):
    """A request that wants no drafts, one just preempted, a prompt."""
    asked = []

    def note(contexts):
        asked.extend(context.request_id for context in contexts)
        return right()(contexts)

    shadows, _ = shadowed(note)
    for _ in range(300):
        shadows.after_step([sequence, live("other")], seconds=STEP_SECONDS)
    assert set(asked) == {"other"}


@pytest.mark.parametrize(("draft_tokens_max", "longest"), [(3, 3), (64, MOST_DRAFT_TOKENS)])
def test_a_draft_is_no_longer_than_the_answer_can_be_nor_than_drafts_are(draft_tokens_max, longest):
    """Positions that never get a token cost time."""
    limits = []

    def note(contexts):
        limits.extend((context.max_draft_tokens, 302 - len(context.token_ids)) for context in contexts)
        return guessing(2)(contexts)

    shadows, _ = shadowed(note, draft_tokens_max=draft_tokens_max)
    run(shadows, [live(max_tokens=300)], steps=298)
    assert [limit for limit, _ in limits] == [min(longest, left) for _, left in limits]
    assert {limit for limit, _ in limits} == set(range(1, longest + 1))


def test_an_answer_that_ends_is_scored_as_far_as_it_goes():
    """And nothing of it is kept."""
    asked = []

    def note(contexts):
        asked.extend(contexts)
        return right()(contexts)

    shadows, _ = shadowed(note, serving=guessing(1))
    sequence = live()
    while not asked:
        run(shadows, [sequence], steps=1)
    emit(sequence, 2)
    shadows.forget(sequence)
    shadows.forget(sequence)
    stats = shadows.stats("head")
    assert (stats.sequence_steps, stats.candidate.reached, stats.candidate.matched) == (1, (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("asked", "is_held"),
    [
        ({"revision": "new", "uri": None, "sha256": None}, True),
        ({"revision": "new", "uri": CANDIDATE.uri, "sha256": None}, True),
        ({"revision": "new", "uri": "s3://moved", "sha256": "a" * 64}, True),  # the same bytes
        ({"revision": "new", "uri": CANDIDATE.uri, "sha256": "b" * 64}, False),
        ({"revision": "new", "uri": "file:///claims/other", "sha256": None}, False),
        ({"revision": "newer", "uri": CANDIDATE.uri, "sha256": "a" * 64}, False),
    ],
)
def test_what_is_loaded_is_known_by_its_bytes_or_its_place(asked, is_held):
    """Only the very same is promoted without reading."""
    shadows, _ = shadowed(right())
    assert shadows.holds("head", **asked) == is_held


def test_what_the_pool_proposes_and_believes_is_the_same_beside_a_shadow():
    """Tokens, sources and survivals of every step, as exact numbers, with a good candidate and with a bad one."""

    def reports(weights):
        head = RevisedHead({})
        head.swap_in(("old", replaying({"r": [1, 2, *TEXT]}, wrong_at=1)))
        counts = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda c: (TEXT[len(c.token_ids) - 2],))
        pool = DrafterPool([head, counts], vocab_size=FAKE_VOCAB)
        if weights is not None:
            pool.shadows.put(head, CANDIDATE, ("new", weights), draft_tokens_max=4)
        sequence, seen = live(), []
        for _ in range(250):
            report = pool.draft([sequence], [{"counts": 1, "head": 3}], watch=[3])
            seen.append((report.proposals, report.asked, report.proposed, report.asked_by_sequence))
            emit(sequence)
            seen.append(pool.learn(sequence))
            pool.shadows.after_step([sequence], seconds=1.0)
        drafted = weights is not None and pool.shadows.stats("head").seconds > 0
        return seen, drafted, head.state

    plain, _, _ = reports(None)
    for weights in (right(), guessing(3), *BAD_FILES.values()):
        assert reports(weights) == (plain, True, DrafterState.ACTIVE)


def test_a_draft_with_confidences_is_taken():
    """Those of a working head are shares of a softmax."""

    def sure(contexts):
        return [Draft(token_ids=(TEXT[len(c.token_ids) - 2],), confidences=(1.0,)) for c in contexts]

    shadows, _ = shadowed(sure)
    run(shadows, [live()], steps=300)
    assert shadows.stats("head").candidate.matched == (shadows.stats("head").sequence_steps,)
