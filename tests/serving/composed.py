"""The status that is composed of what a test says is stored and known, and how tests read it."""

from datetime import UTC, datetime
from typing import Any

from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.speculative_model import SpeculativeModel, SpeculativeModelStatus
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.serving import status
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import next_step
from bowsprit_operator.summaries import ModelSummary, PodReport
from bowsprit_policy.control import SpeculationSummary
from serving.objects import PLATFORM, converged, with_status

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
SCRAPED = ModelSummary(scraped_at=1.0, pods=(PodReport(name="m-1", uid="uid-m-1", model_digest="d" * 64),))
SPEEDS = {"acceptance_length": 3.416, "acceptance_rate": 0.6149, "per_position": (0.82, 0.714), "speedup": 2.314}


def figures(**values: Any) -> SpeculationSummary:
    """What the control loop found out."""
    plain: dict[str, Any] = {"tokens_per_second": 148.4, "draft_tokens": 5, "drafter": "ngram", "batch": 1}
    return SpeculationSummary(**(plain | {"has_metrics": True} | SPEEDS | values))


def compose(
    model: SpeculativeModel,
    *,
    deployment: dict[str, Any] | None = None,
    pods: tuple[Pod, ...] = (),
    summary: ModelSummary = SCRAPED,
    is_due: bool = True,
    now: datetime = NOON,
    **observed: Any,
) -> SpeculativeModelStatus:
    """Status of a converged model. `deployment`: status fields that differ from one healthy engine."""
    children = with_status(converged(model), **(deployment or {}))
    stored = Observed(model=model, children=children, pods=pods, **observed)
    plan = next_step(stored, PLATFORM)
    return status.compose(stored, plan, PLATFORM, summary, now=now, figures_are_due=is_due)


def found(written: SpeculativeModelStatus, type_: ModelCondition) -> tuple[str, str, str]:
    """Status, reason and message of a condition."""
    (condition,) = [condition for condition in written.conditions if condition.type == type_]
    return condition.status.value, condition.reason, condition.message


def brief(written: SpeculativeModelStatus) -> dict[str, str]:
    """The three conditions that kstatus reads, as STATUS/REASON."""
    types = (ModelCondition.READY, ModelCondition.RECONCILING, ModelCondition.STALLED)
    return {type_.value: "/".join(found(written, type_)[:2]) for type_ in types}
