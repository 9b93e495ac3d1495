"""Differences of counters: restarts, new revisions, pods that come, go and fall silent."""

from __future__ import annotations

from bowsprit_policy.counters import DrafterDelta, delta
from bowsprit_policy.fleet import FleetState, FleetStep, observe
from bowsprit_policy.observation import Observation, PodObservation
from bowsprit_policy.wire import CaptureStats, DrafterState, DrafterType, EngineStats
from builders import drafter_stats, engine_stats, step_cell


def scrape(**pods: EngineStats | None) -> Observation:
    return Observation(pods=tuple(PodObservation(uid=uid, stats=stats) for uid, stats in pods.items()))


def scrapes(*observations: Observation) -> FleetStep:
    step = observe(FleetState(), observations[0])
    for observation in observations[1:]:
        step = observe(step.state, observation)
    return step


def test_a_delta_is_what_happened_in_between() -> None:
    """Positions that are new in the later counters count from zero."""
    before = engine_stats(
        uptime_seconds=100, generation_tokens=50, drafters=[drafter_stats(proposed=5, reached=(5,), matched=(2,))]
    )
    after = engine_stats(
        uptime_seconds=110, generation_tokens=80, drafters=[drafter_stats(proposed=9, reached=(9, 3), matched=(5, 1))]
    )
    got = delta(before, after)
    assert (got.generation_tokens, got.tokens_per_second) == (30, 3.0)
    assert (
        DrafterDelta(
            name="ngram",
            type=DrafterType.NGRAM,
            revision=None,
            proposed=4,
            drafted_tokens=7,
            accepted_tokens=4,
            reached=(4, 3),
            matched=(3, 1),
        ),
    ) == got.drafters


def test_after_a_restart_everything_counts_from_zero() -> None:
    """Another boot id: the counters began again, even where they are larger than before."""
    before = engine_stats(boot_id="boot-1", generation_tokens=10, cells=[step_cell(steps=5)])
    after = engine_stats(boot_id="boot-2", generation_tokens=40, cells=[step_cell(steps=9)])
    got = delta(before, after)
    assert (got.generation_tokens, got.cells[0].steps) == (40, 9)


def test_a_drafters_counters_begin_again_with_its_revision() -> None:
    """The engine and its cells go on, the drafter doesn't."""
    before = engine_stats(
        drafters=[drafter_stats("head", revision="1", opportunities=900, proposed=900, reached=(900,))]
    )
    after = engine_stats(drafters=[drafter_stats("head", revision="2", opportunities=7, proposed=7, reached=(7,))])
    assert [(d.revision, d.proposed, d.reached) for d in delta(before, after).drafters] == [("2", 7, (7,))]


def test_an_empty_drafter_says_nothing() -> None:
    """A head without a revision must not be taken for another revision of the loaded one."""
    stats = engine_stats(drafters=[drafter_stats("head", type=DrafterType.HEAD, state=DrafterState.EMPTY)])
    assert delta(None, stats).drafters == ()


def test_a_new_leader_only_marks_what_was_counted_before_it() -> None:
    """A month of counters says nothing about now; captured tokens are still there to be trained on."""
    old = engine_stats(generation_tokens=1_000_000, capture=CaptureStats(tokens=70_000, requests=500))
    first = scrapes(scrape(a=old))
    assert (first.delta.generation_tokens, first.captured) == (0, (70_000, 500))


def test_a_pod_that_joins_later_counts_from_its_start() -> None:
    """It was not there at the last scrape, so all of it is new."""
    old, joined = engine_stats(generation_tokens=1000), engine_stats(boot_id="b", generation_tokens=30)
    assert scrapes(scrape(a=old), scrape(a=old, b=joined)).delta.generation_tokens == 30


def test_a_pod_that_fell_silent_is_counted_once_when_it_answers_again() -> None:
    """Its marks are kept; nothing is lost and nothing counted twice."""
    before, after = engine_stats(generation_tokens=100), engine_stats(generation_tokens=160)
    silent = scrapes(scrape(a=before), scrape(a=None))
    assert (silent.num_answering, silent.delta.generation_tokens) == (0, 0)
    assert scrapes(scrape(a=before), scrape(a=None), scrape(a=after)).delta.generation_tokens == 60


def test_a_pod_that_is_gone_drops_out() -> None:
    """Series of dead pods don't linger."""
    assert scrapes(scrape(a=engine_stats(), b=engine_stats()), scrape(a=engine_stats())).state.pods[-1].uid == "a"


def test_engines_of_the_next_model_wait_until_the_last_of_the_old_is_gone() -> None:
    """During a rolling update two targets must not be averaged."""
    old, new = (
        engine_stats(model_digest="a" * 64),
        engine_stats(boot_id="n", model_digest="b" * 64, generation_tokens=5),
    )
    rolling = scrapes(scrape(x=old), scrape(x=old, y=new))
    assert (rolling.has_other_model, rolling.delta.generation_tokens) == (False, 0)
    rolled = scrapes(scrape(x=old), scrape(x=old, y=new), scrape(y=new))
    assert (rolled.has_other_model, rolled.delta.generation_tokens) == (True, 5)


def test_a_new_revision_counts_from_zero_however_much_it_has_done_already() -> None:
    """More than the last one had at the scrape before: all of it is the new one's."""
    before, after = (
        engine_stats(drafters=[drafter_stats("head", revision=revision, opportunities=n, reached=(n,), proposed=n)])
        for revision, n in (("head-1", 10), ("head-2", 30))
    )
    (head,) = delta(before, after).drafters
    assert (head.revision, head.opportunities, head.reached, head.proposed) == ("head-2", 30, (30,), 30)
