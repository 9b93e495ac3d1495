"""Which trained speculators the pods should serve and score in the shadow: a promotion step per drafter of type Head.

Decides which stored revisions are a drafter's own. Refuses to choose among them (bowsprit_policy.promotion does), to
load anything, and to remember: what was decided before is read from the revisions and the DraftPolicy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bowsprit_operator.resources import conditions, names
from bowsprit_operator.resources.conditions import ConditionStatus, RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicySpec, of_drafter
from bowsprit_operator.resources.speculative_model import DrafterEntry, SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_policy import promotion
from bowsprit_policy.decision import Decision
from bowsprit_policy.gate import Verdict
from bowsprit_policy.wire import DrafterType


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one drafter should serve, and why. `speculator` None: untrained. `candidate`: what drafts beside it."""

    drafter: str
    speculator: DesiredSpeculator | None
    candidate: DesiredSpeculator | None
    reason: promotion.PromotionReason
    message: str
    decision: Decision | None


def choices(
    model: SpeculativeModel,
    *,
    stored: DraftPolicySpec | None,
    revisions: Iterable[SpeculatorRevision],
    model_digest: str | None,
    now: float,
) -> tuple[Choice, ...]:
    """One per drafter of type Head, in the spec's order. `stored`: what the DraftPolicy says now."""
    known = tuple(revisions)
    heads = (drafter for drafter in model.spec.speculation.drafters if drafter.type is DrafterType.HEAD)
    return tuple(_choice(model, drafter, stored, known, model_digest, now) for drafter in heads)


def _choice(
    model: SpeculativeModel,
    drafter: DrafterEntry,
    stored: DraftPolicySpec | None,
    revisions: tuple[SpeculatorRevision, ...],
    model_digest: str | None,
    now: float,
) -> Choice:
    own = {revision.name: revision for revision in revisions if _is_for(revision, model, drafter)}
    before = of_drafter(() if stored is None else stored.speculators, drafter.name)
    shadow = of_drafter(() if stored is None else stored.candidates, drafter.name)
    inputs = promotion.PromotionInputs(
        serving=None if before is None else before.revision,
        candidate=None if shadow is None else shadow.revision,
        revisions=tuple(_value(revision) for revision in own.values()),
        mode=model.spec.promotion.mode,
        pinned=drafter.revision,
        model_digest=model_digest,
        shadow_seconds=model.spec.promotion.shadow.total_seconds(),
    )
    step = promotion.step(inputs, now=now)
    outcome = step.outcome
    return Choice(
        drafter=drafter.name,
        speculator=_speculator(outcome.serving, drafter=drafter.name, own=own, before=before),
        candidate=_speculator(outcome.candidate, drafter=drafter.name, own=own, before=shadow),
        reason=outcome.reason,
        message=outcome.message,
        decision=step.decision,
    )


def _is_for(revision: SpeculatorRevision, model: SpeculativeModel, drafter: DrafterEntry) -> bool:
    """A pinned one may come from anywhere; others are this model's and lie on the claim that its pods mount."""
    if revision.name == drafter.revision:
        return True
    if (revision.spec.model_name, revision.spec.drafter) != (model.name, drafter.name) or model.spec.storage is None:
        return False
    return revision.spec.artifact.uri.startswith(f"file://{names.CLAIMS_FOLDER}/{model.spec.storage.claim_name}/")


def _value(revision: SpeculatorRevision) -> promotion.Revision:
    evaluation = revision.spec.evaluation
    return promotion.Revision(
        name=revision.name,
        number=revision.spec.number,
        model_digest=revision.spec.model_digest,
        verdict=verdict_of(revision),
        parent=revision.spec.parent,
        is_rolled_back=conditions.is_true(revision.status.conditions, RevisionCondition.ROLLED_BACK),
        acceptance_length=None if evaluation is None else evaluation.recent.candidate.mean,
        shadow=_shadow(revision),
    )


def _shadow(revision: SpeculatorRevision) -> str | None:
    """How its shadow ended, with the numbers; None while it hasn't. One that has served needs none any more."""
    found = conditions.find(revision.status.conditions, RevisionCondition.SHADOWED)
    if found is not None and found.status is ConditionStatus.TRUE:
        return found.message
    has_served = conditions.is_true(revision.status.conditions, RevisionCondition.PROMOTED)
    return "it has served before" if has_served else None


def verdict_of(revision: SpeculatorRevision) -> Verdict | None:
    """None until its conditions are written."""
    found = revision.status.conditions
    if conditions.is_true(found, RevisionCondition.REJECTED):
        return Verdict.REJECTED
    return Verdict.PASSED if conditions.is_true(found, RevisionCondition.EVALUATED) else None


def _speculator(
    name: str | None, *, drafter: str, own: dict[str, SpeculatorRevision], before: DesiredSpeculator | None
) -> DesiredSpeculator | None:
    if name is None:
        return None
    if before is not None and before.revision == name:
        return before  # immutable, and perhaps deleted from the API while its artifact still serves
    artifact = own[name].spec.artifact
    return DesiredSpeculator(drafter=drafter, revision=name, uri=artifact.uri, sha256=artifact.sha256)
