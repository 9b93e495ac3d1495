"""How much of what the pool proposes a step verifies: windows reach the step, and what is bound is paid for."""

from __future__ import annotations

from types import SimpleNamespace

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.core.step_drafts import StepDrafter
from bowsprit_engine.speculation.policy import StepCaps
from bowsprit_engine.speculation.proposal import PoolReport, Proposal


class Parts:
    """The policy, the pool and the scheduler of a step: caps of 4, these proposals and this curve, blocks for all."""

    def __init__(self, proposals, curve):
        self.report = PoolReport(proposals=tuple(proposals))
        self.seconds = curve
        self.rows = []
        self.granted = None

    def asking(self, name, draft_tokens):
        return 0.0

    def caps(self, *, batch, context, asking):
        return StepCaps(by_drafter={"d": 4}, has_windows=True)

    def curve(self, *, batch, rows, most, context):
        self.rows.append(rows)
        return self.seconds

    def draft(self, sequences, caps, **how):
        return self.report

    def grant(self, sequences, proposals):
        self.granted = [proposal.token_ids for proposal in proposals]

    def reserve_drafts(self, sequence, num_tokens):
        return num_tokens


def proposal(*survivals):
    return Proposal(token_ids=(7,) * len(survivals), sources=("d",) * len(survivals), survivals=survivals)


def live(name, limit=None):
    request = Request(
        request_id=name,
        prompt_token_ids=(1, 2),
        sampling=SamplingParams(seed=0),
        speculation=SpeculationParams(max_draft_tokens=limit),
        on_output=lambda _: None,
    )
    return LiveSequence.begin(request)


def drafted(parts, *sequences):
    drafter = StepDrafter(scheduler=parts, pool=parts, policy=parts, max_model_len=256)
    return drafter.draft(SimpleNamespace(decodes=list(sequences), mean_context=9.0))


def test_a_step_verifies_what_pays_of_each_proposal():
    """2 tokens in 1 are bettered by 3.7 in 1.6, and not by 4.0 in 1.9."""
    parts = Parts([proposal(0.9, 0.8), proposal(0.3, 0.1)], [1.0, 1.3, 1.6, 1.9, 2.2])

    assert drafted(parts, live("a"), live("b")).token_ids == [(7, 7), ()]
    assert parts.granted == [(7, 7), ()]


def test_what_a_sequence_with_a_limit_of_its_own_takes_is_in_the_others_price():
    """Its 2 rows come first, with the token that they bring: 0.6 more are no match for a quarter of such a step."""
    parts = Parts([proposal(0.5, 0.5), proposal(0.6)], [1.0, 1.25])

    assert drafted(parts, live("a", limit=2), live("b")).token_ids == [(7, 7), ()]
    assert parts.rows[-1] == 4
