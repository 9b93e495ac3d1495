"""A head that the table admits and that isn't worth asking is told as held at 0, since it drafts next to nothing."""

from __future__ import annotations

from bowsprit_engine.speculation.passed_over import PassedOver, merged
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_policy.wire import DrafterCap, DrafterState, LoweredDrafter, PolicyTable, TableRow
from core.stated_time import StatedTime, step_seconds
from core.stepping import Stepping
from fakes import FAKE_VOCAB, FakeDrafter

PROMPT = [5, 6, 7, 8]
UNSAID = FAKE_VOCAB - 1
NUM_TOKENS = 500
MESSAGE = "batch 1: hardly ever asked, what it brings isn't worth asking for"


def lowered_after(draft, *, steps_to_ask):
    """Of one stream's answer, by a head of such drafts."""
    stated = StatedTime(draft, seconds_to_ask=steps_to_ask * step_seconds(1))
    with stated.running() as stepping:
        stepping.answer("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)
    return stepping


def test_a_head_that_never_comes_true_is_told_as_held_at_0():
    """No draft of it is left to be judged by: asking it stops before there are enough."""
    stepping = lowered_after(lambda _: [UNSAID] * 4, steps_to_ask=0.2)
    expected = LoweredDrafter(name="head", draft_tokens=0, batches=(1,), reason="LowAcceptance", message=MESSAGE)

    assert stepping.policy.status().lowered == stepping.policy.lowered == (expected,)


def test_a_head_that_takes_too_long_is_told_as_held_at_0():
    """However right it is."""
    text = [*PROMPT, *Stepping(max_model_len=1024).answer("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)]
    stepping = lowered_after(lambda context: text[len(context.token_ids) :][:4], steps_to_ask=10)

    assert [entry.name for entry in stepping.policy.lowered] == ["head"]


def test_a_head_that_is_asked_is_not_told_as_held():
    """It is right, and quick."""
    text = [*PROMPT, *Stepping(max_model_len=1024).answer("r", PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)]
    stepping = lowered_after(lambda context: text[len(context.token_ids) :][:4], steps_to_ask=0.2)

    assert stepping.policy.lowered == ()


def test_who_is_held_at_0_is_so_in_the_engines_stats(serve, monkeypatch):
    """By its state too, with what was said of it as the reason; a drafter that isn't held is Active."""
    held = LoweredDrafter(name="head", draft_tokens=0, batches=(1,), reason="LowAcceptance", message=MESSAGE)
    served = serve(drafters=[FakeDrafter(name=name, draft=lambda _: ()) for name in ("head", "other")])
    monkeypatch.setattr(PolicyExecutor, "lowered", (held,))
    stats = served.engine.stats()

    assert (stats.lowered, served.engine.policy().lowered) == ((held,), (held,))
    assert [(drafter.state, drafter.reason) for drafter in stats.drafters] == [
        (DrafterState.LOW_ACCEPTANCE, MESSAGE),
        (DrafterState.ACTIVE, ""),
    ]


def test_what_was_said_is_void_with_another_revision_or_a_table_without_it():
    """Neither is asked about then."""
    stepping = lowered_after(lambda _: [UNSAID] * 4, steps_to_ask=0.2)
    held = len(stepping.policy.lowered)
    stepping.policy.set_table(PolicyTable(revision=2, table=(TableRow(),)))
    without = len(stepping.policy.lowered)
    row = TableRow(drafters=(DrafterCap(name="head", draft_tokens=2),))
    stepping.policy.set_table(PolicyTable(revision=3, table=(row,)))
    again = len(stepping.policy.lowered)
    stepping.policy.begin_revision("head")

    assert (held, without, again, stepping.policy.lowered) == (1, 0, 1, ())


def test_a_drafter_is_passed_over_by_the_share_of_its_steps_and_not_at_once():
    """New ones are waited for; one that is asked again in a tenth of steps is no longer told. By batch."""
    passed_over = PassedOver()

    def told_after(steps, *, asked_every=None, batch=3):
        for step in range(steps):
            asked = ["head"] if asked_every and step % asked_every == 0 else []
            passed_over.observe(admitted=["head"], asked=asked, batch=batch)
        return [entry.batches for entry in passed_over.lowered]

    assert told_after(70) == []
    assert told_after(20) == [(4,)]
    assert told_after(90, batch=1) == [(1,), (4,)]
    assert told_after(400, asked_every=20) == [(1,), (4,)]
    assert told_after(400, asked_every=5) == [(1,)]


def test_a_drafter_is_told_once_with_all_its_batches():
    """Held at 0 at some, passed over at others."""

    def at(batch, name="head"):
        return LoweredDrafter(
            name=name, draft_tokens=0, batches=(batch,), reason="LowAcceptance", message=f"batch {batch}: loses"
        )

    assert [(entry.name, entry.batches, entry.message) for entry in merged([at(8), at(2, "suffix"), at(1)])] == [
        ("head", (1, 8), "batch 8: loses; batch 1: loses"),
        ("suffix", (2,), "batch 2: loses"),
    ]
