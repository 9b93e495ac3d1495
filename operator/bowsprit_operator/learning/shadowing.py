"""A candidate's time in the shadow as the API tells it: what pods do with it, and its status while and after it.

Pure. Refuses to judge (bowsprit_policy.shadow does) and to choose the candidate (promotion does).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from bowsprit_operator.learning import verdict
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicy, PodAcknowledgement, of_drafter
from bowsprit_operator.resources.speculator_revision import (
    Difference,
    RevisionStage,
    ShadowProgress,
    SpeculatorRevision,
    SpeculatorRevisionStatus,
)
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import Observation
from bowsprit_policy.promotion import PromotionReason
from bowsprit_policy.shadow import PodShadow, ShadowInputs, ShadowJudgement, ShadowReason, ShadowState
from bowsprit_policy.wire import ShadowStats


def inputs(
    candidate: DesiredSpeculator,
    stored: SpeculatorRevision,
    *,
    policy: DraftPolicy,
    observation: Observation,
    limit_seconds: float,
    now: float,
) -> ShadowInputs | None:
    """What the judgement looks at; None while its time hasn't begun. `observation`: this tick's scrape."""
    progress = stored.status.shadow
    if progress is None or stored.status.stage is not RevisionStage.SHADOW:
        return None
    serving = of_drafter(policy.spec.speculators, candidate.drafter)
    scores = _scores(observation, candidate.drafter)
    return ShadowInputs(
        candidate=candidate.revision,
        incumbent=None if serving is None else serving.revision,
        pods=tuple(_pod(pod, candidate, scores) for pod in policy.status.pods),
        elapsed_seconds=now - progress.start_time.timestamp(),
        limit_seconds=limit_seconds,
    )


def begun(stored: SpeculatorRevision, *, message: str, now: datetime) -> SpeculatorRevisionStatus:
    """Its time begins, perhaps anew; what was scored before is void."""
    findings = (
        verdict.finding(RevisionCondition.SHADOWED, None, ShadowReason.SHADOWING, message),
        verdict.finding(RevisionCondition.PROMOTED, False, PromotionReason.IN_SHADOW, message),
    )
    status = verdict.with_findings(stored.status, findings, now=now)
    return status.model_copy(update={"shadow": ShadowProgress(start_time=now)})


def stopped(
    stored: SpeculatorRevision, *, serves: bool, reason: PromotionReason, message: str, now: datetime
) -> SpeculatorRevisionStatus:
    """It is no candidate any more, before anything was found out. `reason`, `message`: of what was chosen instead.

    `serves`: it is what was chosen, by its user.
    """
    findings = (
        verdict.finding(RevisionCondition.SHADOWED, None, ShadowReason.STOPPED, message),
        verdict.finding(RevisionCondition.PROMOTED, serves, reason, message),
    )
    return verdict.with_findings(stored.status, findings, now=now)


def judged(
    stored: SpeculatorRevision, given: ShadowInputs, judgement: ShadowJudgement, *, now: datetime
) -> SpeculatorRevisionStatus:
    """While it goes on, the figures move only when there are twice as many places: each write wakes every watcher."""
    progress = stored.status.shadow
    if progress is None:
        raise ValueError(f"SpeculatorRevision {stored.name} is not in the shadow")
    if judgement.verdict is None and judgement.figures.places < max(1, 2 * progress.places):
        return stored.status
    is_passed = None if judgement.verdict is None else judgement.verdict is Verdict.PASSED
    findings = (verdict.finding(RevisionCondition.SHADOWED, is_passed, judgement.reason, judgement.message),)
    status = verdict.with_findings(stored.status, findings, now=now)
    status = status.model_copy(update={"shadow": _progress(progress, given, judgement)})
    if judgement.verdict is Verdict.REJECTED:
        told = stored.model_copy(update={"status": status})
        return verdict.rejected(told, reason=judgement.reason, message=judgement.message, now=now)
    return status


def _progress(before: ShadowProgress, given: ShadowInputs, judgement: ShadowJudgement) -> ShadowProgress:
    figures = judgement.figures
    told = before.model_copy(update={"incumbent": given.incumbent, "pods": figures.pods, "places": figures.places})
    if figures.places == 0:
        return told
    low, high = figures.interval
    incumbent = None if given.incumbent is None else figures.incumbent_matched / figures.places
    return told.model_copy(
        update={
            "candidate_matched": figures.candidate_matched / figures.places,
            "incumbent_matched": incumbent,
            "difference": Difference(mean=figures.difference, low=low, high=high),
        }
    )


def _scores(observation: Observation, drafter: str) -> dict[str, ShadowStats | None]:
    """By pod."""
    return {
        pod.uid: next((found.shadow for found in pod.stats.drafters if found.name == drafter), None)
        for pod in observation.pods
        if pod.stats is not None
    }


def _pod(pod: PodAcknowledgement, candidate: DesiredSpeculator, scores: Mapping[str, ShadowStats | None]) -> PodShadow:
    loaded = next((found.shadow for found in pod.speculators if found.drafter == candidate.drafter), None)
    if loaded is None or loaded.revision != candidate.revision:  # the next tick brings it there
        return PodShadow(pod=pod.name, state=ShadowState.LOADING, message=pod.message or "")
    return PodShadow(pod=pod.name, state=loaded.state, message=loaded.message or "", stats=scores.get(pod.uid))
