"""What a step tells of drafts: each drafter is judged by its own tokens, by those of its own revision, also at 0."""

from __future__ import annotations

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_engine.speculation.lowering import Outcome
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import DrafterType, StepCell
from core.stepping import Stepping
from fakes import FAKE_VOCAB, FakeDrafter
from speculation.pool_drafters import emit, head, sequence

PROMPT = [5, 6, 7, 8]
UNSAID = FAKE_VOCAB - 1


def plain_text(num_tokens):
    return [*PROMPT, *Stepping().answer("r", PROMPT, max_tokens=num_tokens, ignore_eos=True)]


def follows(text, context):
    return text[len(context.token_ids) + len(context.ahead) :]


def test_who_begins_a_draft_is_judged_by_its_own_tokens(monkeypatch):
    """What look-up got after a head's two tokens says nothing of the head."""
    text = plain_text(22)
    begins = FakeDrafter(name="head", draft=lambda context: follows(text, context)[:2])
    goes_on = FakeDrafter(
        name="counts",
        type=DrafterType.NGRAM,
        draft=lambda context: follows(text, context)[:2] if context.ahead else (),
    )
    told = []
    observe = PolicyExecutor.observe

    def hear(self, outcomes, *, batch, context):
        told.extend(outcomes)
        observe(self, outcomes, batch=batch, context=context)

    monkeypatch.setattr(PolicyExecutor, "observe", hear)
    stepping = Stepping(drafters=[begins, goes_on], draft_tokens=4)
    stepping.answer("r", PROMPT, max_tokens=21, ignore_eos=True)

    assert stepping.counters.drafter_stats(goes_on).accepted_tokens == 8
    assert told == [Outcome(drafter="head", num_drafted=2, num_accepted=2)] * 4


def test_look_up_that_the_engine_lowered_is_restored_by_what_it_would_have_got():
    """Wrong for long, then right: in fewer steps than until the first probe."""
    text = plain_text(200)
    lookup = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda _: [UNSAID])
    milliseconds = {1: 10.0, 2: 15.0}
    cells = [
        StepCell(batch=1, rows=rows, context=256, steps=1, seconds=each / 1000, tokens=1)
        for rows, each in milliseconds.items()
    ]
    stepping = Stepping(drafters=[lookup], draft_tokens="auto", cells=cells)
    up_to_its_cap = SpeculationParams(max_draft_tokens=4)
    stepping.submit("r", PROMPT, speculation=up_to_its_cap, max_tokens=200, ignore_eos=True)
    while not stepping.policy.lowered:
        stepping.stepper.step()
    lookup.draft = lambda context: follows(text, context)[:1]
    for _ in range(50):
        stepping.stepper.step()

    assert (stepping.policy.lowered, stepping.counters.drafter_stats(lookup).accepted_tokens > 0) == ((), True)


def test_drafts_of_an_old_revision_say_nothing_of_the_next_one():
    """They wait for the text when it is swapped, and would all have matched."""
    caps = [{"head": 3}]
    fresh = DrafterPool([head()], vocab_size=10)
    (unknown,) = fresh.draft([sequence("a")], caps, bound={0}).proposals
    pool, live = DrafterPool([head()], vocab_size=10), sequence("a")
    pool.draft([live], caps, bound={0})
    pool.begin_revision("head")
    emit(pool, live, 7, 7, 7, 7)
    (proposal,) = pool.draft([live], caps, bound={0}).proposals

    assert (proposal.token_ids, proposal.survivals) == (unknown.token_ids, unknown.survivals)
