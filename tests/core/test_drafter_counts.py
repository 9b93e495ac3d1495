"""What is counted of drafters: by turn where drafts were verified, by the emitted text where they are held at 0."""

from __future__ import annotations

from bowsprit_engine.core.counters import Counters
from bowsprit_engine.speculation.proposal import Turn
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_policy.wire import DrafterType
from core.stepping import Stepping
from fakes import FAKE_VOCAB, FakeDrafter


def counted(*, turns=(), watched=()):
    drafter = FakeDrafter(name="d", type=DrafterType.NGRAM, draft=lambda _: ())
    counters = Counters([drafter])
    counters.add_turns(turns)
    counters.add_watched(watched)
    return counters.drafter_stats(drafter)


def test_a_window_that_cut_the_draft_leaves_a_position_reached_and_not_matched():
    """Two drafted and matched of a cap of more: the third was within reach."""
    stats = counted(turns=[Turn(drafter="d", begin=0, end=2, limit=3, num_judged=3, num_accepted=2)])

    assert (stats.extendable, stats.drafted) == ((1, 1, 1), (1, 1))
    assert (stats.reached, stats.matched) == ((1, 1, 1), (1, 1))
    assert (stats.drafted_tokens, stats.accepted_tokens) == (2, 2)


def test_tokens_after_another_drafters_count_from_where_they_stand():
    """And only those of them that were reached."""
    stats = counted(turns=[Turn(drafter="d", begin=2, end=4, limit=5, num_judged=4, num_accepted=3)])

    assert (stats.extendable, stats.drafted) == ((0, 0, 1, 1, 1), (0, 0, 1, 1))
    assert (stats.reached, stats.matched, stats.accepted) == ((0, 0, 1, 1), (0, 0, 1), (0, 0, 1))
    assert (stats.drafted_tokens, stats.accepted_tokens) == (2, 1)


def test_turns_that_are_alike_count_as_often_as_they_were_taken():
    """A batch of undrafted sequences has the same turn many times."""
    idle = Turn(drafter="d", begin=0, end=0, limit=1, num_judged=1, num_accepted=0)
    drafted = Turn(drafter="d", begin=0, end=2, limit=2, num_judged=2, num_accepted=1)
    stats = counted(turns=[idle, drafted, idle, drafted, idle])

    assert (stats.extendable, stats.reached) == ((5, 2), (5, 2))
    assert (stats.drafted, stats.matched, stats.drafted_tokens, stats.accepted_tokens) == ((2, 2), (2,), 4, 2)


def test_what_is_held_at_zero_counts_as_reached_and_matched_and_not_as_drafted():
    """An opportunity without a proposal is one too."""
    stats = counted(
        watched=[
            Watched(drafter="d", num_drafted=4, num_matched=2),
            Watched(drafter="d", num_drafted=0, num_matched=0),
        ]
    )

    assert (stats.opportunities, stats.proposed, stats.drafted_tokens, stats.drafted) == (2, 1, 0, ())
    assert (stats.reached, stats.matched, stats.accepted) == ((2, 1, 1), (1, 1), ())


def test_mode_fixed_drafts_in_every_step_however_hopeless():
    """Each of them proposes: all of the answer but its first token, which comes from the prompt, and the last one."""
    unsaid = FAKE_VOCAB - 1
    hopeless = FakeDrafter(name="d", type=DrafterType.NGRAM, draft=lambda _: [unsaid] * 3)
    stepping = Stepping(drafters=[hopeless], draft_tokens=3)
    answer = stepping.answer("r", [1, 2, 3], max_tokens=60, ignore_eos=True)
    stats = stepping.counters.drafter_stats(hopeless)

    assert unsaid not in answer
    assert stats.proposed == stats.opportunities == 58


def test_where_every_step_is_contended_drafting_is_priced_in_such_steps():
    """They are in no cell, but an engine on a busy node must not take drafts for free."""
    stepping = Stepping()
    stepping.runner.last_step_cpu_seconds = 0.0
    stepping.submit("r", [5, 6, 7, 8], max_tokens=6)
    stepping.run()

    assert {(cell.steps, cell.contended > 0) for cell in stepping.counters.cells()} == {(0, True)}
    assert stepping.pool.step_seconds is not None


def test_asking_is_counted_with_its_seconds():
    """By drafter, over steps."""
    drafter = FakeDrafter(name="d", type=DrafterType.NGRAM, draft=lambda _: ())
    counters = Counters([drafter])
    for seconds in (0.5, 0.25):
        counters.add_drafting(asked={"d": 2}, proposed={"d": 1}, seconds={"d": seconds})
    stats = counters.drafter_stats(drafter)

    assert (stats.opportunities, stats.proposed, stats.draft_seconds) == (4, 2, 0.75)


def test_a_step_that_measures_the_baseline_counts_as_a_probe(serve):
    """The 16th of 39 that decode; there is no other by then."""
    served = serve(drafters=[FakeDrafter(name="d", type=DrafterType.NGRAM, draft=lambda _: ())])
    served.submit("r", [5, 6, 7, 8], max_tokens=40, ignore_eos=True).wait()

    assert (served.engine.snapshot().sequence_steps, served.engine.snapshot().probe_steps) == (39, 1)
