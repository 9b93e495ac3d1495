"""What a request says of its own speculation, as far as the engine's steps go."""

from __future__ import annotations

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_policy.wire import DrafterCap, DrafterType, PolicyTable, TableRow
from fakes import FakeDrafter, adversary

PROMPT = [5, 6, 7, 8]


def table(name, draft_tokens):
    return PolicyTable(revision=1, table=(TableRow(drafters=(DrafterCap(name=name, draft_tokens=draft_tokens),)),))


def test_nobody_is_asked_for_a_request_without_speculation(serve):
    """Not even to be scored while it is held at 0, as for its neighbour."""
    asked = set()

    def draft(context):
        asked.add(context.request_id)
        return [1]

    served = serve(drafters=[FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=draft)])
    served.engine.set_policy(table("counts", 0))
    off = served.submit("off", PROMPT, max_tokens=30, speculation=SpeculationParams(enabled=False))
    on = served.submit("on", PROMPT, max_tokens=30)

    assert off.wait().token_ids == on.wait().token_ids
    assert asked == {"on"}


def test_who_sets_a_limit_is_drafted_up_to_it_whether_it_pays_or_not(serve):
    """Of a head that is never right; a neighbour without a limit is left alone soon."""
    served = serve(drafters=[adversary()])
    served.engine.set_policy(table("adversary", 4))

    limited = served.submit("limited", PROMPT, max_tokens=30, speculation=SpeculationParams(max_draft_tokens=2)).wait()

    metrics = limited.last.metrics
    assert metrics is not None
    # A step at K = 0 measures the baseline, the last has no room.
    assert metrics.num_spec_steps >= metrics.num_steps - 3
    assert metrics.num_draft_tokens >= 2 * metrics.num_spec_steps - 1
