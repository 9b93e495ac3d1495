"""How the API writes numbers: shares as percents, times as durations, sizes as quantities, ratios as decimals."""

from datetime import UTC, datetime, timedelta

import pytest

from bowsprit_operator.resources import durations, names, quantities
from bowsprit_operator.resources.base import format_percent
from bowsprit_operator.resources.conditions import Condition, ConditionStatus, Finding, merge
from bowsprit_operator.resources.speculative_model import BudgetSpec, CaptureSpec, SpeculationSpec, TriggerSpec
from bowsprit_operator.resources.speculator_revision import RevisionEvaluation
from bowsprit_policy import wire

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "span"), [("15s", timedelta(seconds=15)), ("1h30m", timedelta(minutes=90)), ("168h", timedelta(days=7))]
)
def test_a_duration_reads_and_writes_as_gep_2257(text: str, span: timedelta) -> None:
    """The canonical form survives a round trip."""
    assert (durations.parse(text), durations.format(span)) == (span, text)


@pytest.mark.parametrize("text", ["15", "1.5h", "-1m", "1d", ""])
def test_what_isnt_a_duration_is_refused(text: str) -> None:
    """Units are required, fractions and days don't exist."""
    with pytest.raises(ValueError, match="Invalid duration"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("text", "number"), [("2Gi", 2 * 1024**3), ("50k", 50_000), ("2M", 2_000_000), ("1500m", 2), (16, 16)]
)
def test_a_quantity_reads_as_a_whole_number(text: str | int, number: int) -> None:
    """Fractions round up."""
    assert quantities.parse(text) == number


@pytest.mark.parametrize(
    ("size", "text"), [(2 * 1024**3, "2Gi"), (512 * 1024**2, "512Mi"), (1536, "1536"), (0, "0"), (2048, "2Ki")]
)
def test_a_size_is_written_with_the_largest_suffix_that_loses_nothing(size: int, text: str) -> None:
    """Flags stay readable."""
    assert quantities.format_bytes(size) == text


@pytest.mark.parametrize(("share", "text"), [(0.05, "5%"), (1.0, "100%"), (0.005, "0.5%"), (0.0, "0%")])
def test_a_share_is_written_as_a_percent_string(share: float, text: str) -> None:
    """No floats in the API."""
    assert format_percent(share) == text


def test_settings_of_training_read_into_plain_units() -> None:
    """Shares become fractions, times timedeltas, quantities whole numbers."""
    capture = CaptureSpec.model_validate({"sampleRate": "10%", "maxTokens": "3M", "retention": "24h"})
    trigger = TriggerSpec.model_validate({"acceptanceDrop": "5%", "minTokens": 1000})
    budget = BudgetSpec.model_validate({"cooldown": "10m"})
    expected = (0.1, 3_000_000, timedelta(days=1), 0.05, 1000, timedelta(minutes=10))
    read = (
        capture.sample_rate,
        capture.max_tokens,
        capture.retention,
        trigger.acceptance_drop,
        trigger.min_tokens,
        budget.cooldown,
    )
    assert read == expected


@pytest.mark.parametrize(
    ("spec", "capacity"),
    [
        ({}, 8),
        ({"draftTokens": {"max": 3}}, 3),
        ({"mode": "Fixed", "fixedDraftTokens": 4}, 8),
        ({"mode": "Fixed", "fixedDraftTokens": 12}, 12),
    ],
)
def test_the_capacity_of_drafts_follows_from_what_is_set(spec: dict[str, object], capacity: int) -> None:
    """A fixed length beyond the default raises the capacity instead of being cut."""
    assert SpeculationSpec.model_validate(spec).effective_draft_tokens_max == capacity


def test_an_evaluation_survives_the_way_into_a_revision_and_back() -> None:
    """Decimal strings of six digits lose nothing that a gate would see."""
    interval = wire.Interval(mean=2.3125, low=2.25, high=2.375, requests=240)
    comparison = wire.Comparison(incumbent=interval, candidate=interval, gain=interval, per_position=(0.7125, 0.5))
    evaluation = wire.Evaluation(recent=comparison, base=comparison)
    written = RevisionEvaluation.of(evaluation).manifest()
    assert written["recent"]["candidate"] == {"mean": "2.3125", "low": "2.25", "high": "2.375", "requests": 240}
    assert written["recent"]["perPosition"] == ["0.7125", "0.5"]
    assert RevisionEvaluation.model_validate(written).on_the_wire() == evaluation


@pytest.mark.parametrize(
    ("name", "number"),
    [("smollm2-head-7", 7), ("smollm2-head-x", None), ("other-head-7", None), ("smollm2-head-", None)],
)
def test_a_revisions_number_is_read_from_its_name(name: str, number: int | None) -> None:
    """Names of other models and drafters have none."""
    assert names.revision_number(name, model_name="smollm2", drafter="head") == number


@pytest.mark.parametrize(
    ("uri", "claim"), [("pvc://models/a/b.gguf", "models"), ("file:///models/a", None), ("pvc://models", "models")]
)
def test_the_claim_of_a_uri_is_its_first_part(uri: str, claim: str | None) -> None:
    """Only pvc:// has one."""
    assert names.claim_of(uri) == claim


@pytest.mark.parametrize(("status", "moved"), [(ConditionStatus.TRUE, False), (ConditionStatus.FALSE, True)])
def test_a_conditions_time_moves_only_with_its_status(status: ConditionStatus, moved: bool) -> None:
    """A new message alone is no transition."""
    later = NOON + timedelta(minutes=1)
    stored = Condition(type="Ready", status=ConditionStatus.TRUE, reason="A", last_transition_time=NOON)
    (merged,) = merge(
        [stored], [Finding(type="Ready", status=status, reason="B", message="m")], now=later, generation=2
    )
    assert merged.last_transition_time == (later if moved else NOON)
    assert (merged.reason, merged.observed_generation) == ("B", 2)
