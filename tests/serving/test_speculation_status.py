"""What status says of speculation: whether it pays, by which figures, and what was decided."""

from datetime import timedelta
from typing import Any

import pytest

from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.speculative_model import SpeculativeModelStatus
from bowsprit_operator.summaries import ModelSummary, PodReport
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.wire import DrafterState, DrafterStats, DrafterType, LoweredDrafter
from serving.composed import NOON, SCRAPED, brief, compose, figures, found
from serving.objects import TRAINED, a_model


@pytest.mark.parametrize(
    ("spec", "summary", "status_", "reason"),
    [
        ({"speculation": {"mode": "Off"}}, SCRAPED, "False", "OffBySpec"),
        ({}, SCRAPED, "Unknown", "NoBaselineYet"),
        ({}, ModelSummary(scraped_at=1.0, speculation=figures()), "True", "SpeculationPays"),
        ({}, ModelSummary(scraped_at=1.0, speculation=figures(speedup=0.97)), "False", "SpeculationLoses"),
        ({}, ModelSummary(scraped_at=1.0, speculation=figures(draft_tokens=0)), "False", "SpeculationLoses"),
        ({}, ModelSummary(scraped_at=1.0, speculation=figures(speedup=None)), "Unknown", "NoBaselineYet"),
    ],
)
def test_speculation_is_effective_when_it_is_measured_to_pay(
    spec: dict[str, Any], summary: ModelSummary, status_: str, reason: str
) -> None:
    """Against measured steps without it, never against a model."""
    assert found(compose(a_model(**spec), summary=summary), ModelCondition.SPECULATION_EFFECTIVE)[:2] == (
        status_,
        reason,
    )


def test_speculation_effective_tells_at_which_batch_an_engine_holds_a_drafter() -> None:
    """Below the table, by itself; an engine of the previous version doesn't say at which."""
    says = {"name": "ngram", "draft_tokens": 0, "reason": "LowAcceptance", "message": "loses"}
    pods = tuple(
        PodReport(name=f"m-{n}", uid=str(n), lowered=(LoweredDrafter(**says, batches=batches),))  # type: ignore[arg-type]
        for n, batches in enumerate([(4,), (4, 8), ()])
    )
    told = []
    for seen in (pods, pods[2:]):
        summary = ModelSummary(scraped_at=1.0, speculation=figures(), pods=seen)
        told.append(found(compose(a_model(), summary=summary), ModelCondition.SPECULATION_EFFECTIVE)[2])
    plain = "2.31x against measured steps without speculation, K=5; engines hold ngram at K=0"
    assert told == [f"{plain} at batch 4, 8", plain]


def test_what_engines_hold_is_told_before_there_is_a_baseline() -> None:
    """Whoever looks why nothing is drafted needn't wait for it."""
    held = LoweredDrafter(name="suffix", draft_tokens=0, batches=(1,), reason="LowAcceptance", message="loses")
    summary = ModelSummary(scraped_at=1.0, pods=(PodReport(name="m-1", uid="u", lowered=(held,)),))
    expected = "no steps without speculation were measured yet; engines hold suffix at K=0 at batch 1"
    assert found(compose(a_model(), summary=summary), ModelCondition.SPECULATION_EFFECTIVE)[2] == expected


@pytest.mark.parametrize("type_", DrafterType)
def test_a_broken_drafter_of_any_type_is_named_with_its_pod(type_: DrafterType) -> None:
    """The pod stays Ready and serves plainly."""
    broken = DrafterStats(name="head", type=type_, state=DrafterState.BROKEN, reason="self-test failed")
    summary = ModelSummary(scraped_at=1.0, pods=(PodReport(name="m-1", uid="u", drafters=(broken,)),))
    written = compose(a_model(**TRAINED), summary=summary)
    expected = ("False", "DrafterBroken", "pod m-1: head: self-test failed")
    assert found(written, ModelCondition.SPECULATION_EFFECTIVE) == expected
    assert brief(written)["Ready"] == "True/AllEnginesReady"


@pytest.mark.parametrize(
    ("pods", "status_", "reason"),
    [
        ((), "Unknown", "NoEngines"),
        ((PodReport(name="a", uid="a"),), "True", "MetricsFresh"),
        ((PodReport(name="a", uid="a"), PodReport(name="b", uid="b", failure="Timeout")), "True", "MetricsFresh"),
        ((PodReport(name="b", uid="b", failure="Timeout"),), "False", "MetricsMissing"),
    ],
)
def test_metrics_are_missing_only_when_no_engine_answers(
    pods: tuple[PodReport, ...], status_: str, reason: str
) -> None:
    """One silent pod is left out, and named."""
    written = compose(a_model(), summary=ModelSummary(scraped_at=1.0, pods=pods))
    assert found(written, ModelCondition.METRICS_AVAILABLE)[:2] == (status_, reason)


def test_figures_are_rounded_strings() -> None:
    """No floats in the API."""
    written = compose(a_model(), summary=ModelSummary(scraped_at=1.0, speculation=figures()))
    assert written.speculation is not None
    assert written.speculation.manifest() == {
        "acceptanceLength": "3.42",
        "acceptanceRate": "61%",
        "perPosition": ["82%", "71%"],
        "speedup": "2.31",
        "tokensPerSecond": "148",
        "draftTokens": 5,
        "drafter": "ngram",
    }


@pytest.mark.parametrize(
    ("change", "is_due", "is_written"),
    [
        ({"acceptance_length": 3.45}, True, False),
        ({"acceptance_length": 3.9}, True, True),
        ({"acceptance_length": 3.9}, False, False),
        ({"tokens_per_second": 155.0}, True, False),
        ({"tokens_per_second": 300.0}, True, True),
        ({"draft_tokens": 6}, False, True),
        ({"drafter": "head"}, False, True),
    ],
)
def test_figures_are_written_when_due_and_material_and_decisions_at_once(
    change: dict[str, Any], is_due: bool, is_written: bool
) -> None:
    """Else every tick would be a write."""
    before = compose(a_model(), summary=ModelSummary(scraped_at=1.0, speculation=figures()))
    after = compose(
        a_model(status=before.manifest()),
        summary=ModelSummary(scraped_at=1.0, speculation=figures(**change)),
        is_due=is_due,
    )
    assert (after.speculation != before.speculation) is is_written


def test_the_same_situation_gives_an_equal_status_later() -> None:
    """Equal statuses are not written: time alone changes nothing."""
    first = compose(a_model(), summary=ModelSummary(scraped_at=1.0, speculation=figures()))
    again = compose(
        a_model(status=first.manifest()),
        summary=ModelSummary(scraped_at=2.0, speculation=figures()),
        now=NOON + timedelta(hours=1),
    )
    assert again == SpeculativeModelStatus.model_validate(first.manifest())


def a_decision(second: int) -> Decision:
    return Decision(
        at=NOON.timestamp() + second,
        kind=DecisionKind.DRAFT_LENGTH,
        reason="GoodputGain",
        message=f"number {second}",
        before="K=1",
        after="K=5",
        record="{}",
    )


def test_the_last_ten_decisions_are_kept_across_leaders() -> None:
    """A new leader knows only its own, the stored ones stay until they are displaced; nothing is there twice."""
    former = ModelSummary(scraped_at=1.0, decisions=tuple(a_decision(second) for second in range(8, 0, -1)))
    before = compose(a_model(), summary=former)
    current = ModelSummary(scraped_at=1.0, decisions=tuple(a_decision(second) for second in (11, 10, 9, 8)))
    after = compose(a_model(status=before.manifest()), summary=current)
    assert [entry.message for entry in after.decisions] == [f"number {second}" for second in range(11, 1, -1)]
    assert after.decisions[0].manifest() == {
        "time": "2026-11-24T12:00:11Z",
        "kind": "DraftLength",
        "reason": "GoodputGain",
        "message": "number 11",
        "from": "K=1",
        "to": "K=5",
    }


def test_a_new_leader_keeps_what_it_has_not_measured_yet() -> None:
    """Figures, the model's digest and MetricsAvailable stay as the former leader wrote them."""
    summary = ModelSummary(scraped_at=1.0, speculation=figures(), pods=SCRAPED.pods)
    before = compose(a_model(), summary=summary)
    after = compose(a_model(status=before.manifest()), summary=ModelSummary())
    assert after == SpeculativeModelStatus.model_validate(before.manifest())
