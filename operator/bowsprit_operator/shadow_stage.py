"""The shadow stage, carried out: who begins to be scored, who is judged, who stopped; all stored in the revisions.

One call of each per tick, cut short anywhere and done again in the next one. Decides neither which candidate drafts
in the shadow nor how it did (bowsprit_policy does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from bowsprit_operator.learning import shadowing, verdict
from bowsprit_operator.learning.desired import Choice
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicy
from bowsprit_operator.resources.names import LEARNING_LOOP
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import (
    RevisionStage,
    SpeculatorRevision,
    SpeculatorRevisionStatus,
)
from bowsprit_operator.world.cluster import Cluster
from bowsprit_policy import shadow
from bowsprit_policy.decision import Decision
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import Observation
from bowsprit_policy.promotion import PromotionReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The revisions as they are stored now, and what was decided (rejections)."""

    revisions: tuple[SpeculatorRevision, ...]
    decisions: tuple[Decision, ...] = ()


async def judge(
    cluster: Cluster,
    model: SpeculativeModel,
    *,
    policy: DraftPolicy | None,
    revisions: tuple[SpeculatorRevision, ...],
    observation: Observation | None,
    now: float,
) -> Judged:
    """The candidates of the stored DraftPolicy, by what pods scored until now. Without a scrape nothing is judged."""
    if policy is None or observation is None:
        return Judged(revisions=revisions)
    known = {revision.name: revision for revision in revisions}
    decisions, limit_seconds = [], model.spec.promotion.shadow.total_seconds()
    for candidate in policy.spec.candidates:
        stored = known.get(candidate.revision)
        if stored is None:
            continue
        given = shadowing.inputs(
            candidate, stored, policy=policy, observation=observation, limit_seconds=limit_seconds, now=now
        )
        if given is None:
            continue
        judgement = shadow.decide(given)
        status = shadowing.judged(stored, given, judgement, now=verdict.moment(now))
        known[stored.name] = await _write(cluster, stored, status)
        if judgement.verdict is Verdict.REJECTED:
            decisions.append(shadow.rejection(given, judgement, now=now))
    return Judged(revisions=tuple(known.values()), decisions=tuple(decisions))


async def mark(
    cluster: Cluster,
    model: SpeculativeModel,
    choices: Iterable[Choice],
    revisions: tuple[SpeculatorRevision, ...],
    *,
    before: tuple[DesiredSpeculator, ...],
    now: float,
) -> tuple[SpeculatorRevision, ...]:
    """Who is a candidate of the DraftPolicy now, and who isn't any more. Returns the revisions as stored then.

    `before`: its candidates until now. The time of one that is new there begins, whatever an earlier model left.
    """
    by_drafter = {choice.drafter: choice for choice in choices}
    chosen = {choice.candidate.revision: choice for choice in by_drafter.values() if choice.candidate is not None}
    moment = verdict.moment(now)
    marked = []
    for revision in revisions:
        is_marked, choice = revision.status.stage is RevisionStage.SHADOW, chosen.get(revision.name)
        if choice is not None and (not is_marked or choice.candidate not in before):
            status = shadowing.begun(revision, message=choice.message, now=moment)
            marked.append(await _write(cluster, revision, status))
        elif choice is None and is_marked and revision.spec.model_name == model.name:
            marked.append(await _write(cluster, revision, _stopped(revision, by_drafter, now=moment)))
        else:
            marked.append(revision)
    return tuple(marked)


def _stopped(revision: SpeculatorRevision, choices: Mapping[str, Choice], *, now: datetime) -> SpeculatorRevisionStatus:
    choice = choices.get(revision.spec.drafter)
    if choice is None:
        gone = f"the spec has no drafter {revision.spec.drafter} of type Head any more"
        reason = PromotionReason.DRAFTER_REMOVED
        return shadowing.stopped(revision, serves=False, reason=reason, message=gone, now=now)
    serves = choice.speculator is not None and choice.speculator.revision == revision.name
    return shadowing.stopped(revision, serves=serves, reason=choice.reason, message=choice.message, now=now)


async def _write(
    cluster: Cluster, revision: SpeculatorRevision, status: SpeculatorRevisionStatus
) -> SpeculatorRevision:
    await cluster.apply_status(revision, status, manager=LEARNING_LOOP)
    return revision.model_copy(update={"status": status})
