"""The whole status of a SpeculativeModel, from what is stored and what the loops know. Pure; the only composer of it.

Refuses to write: reconcile does, in one full apply, and only when something differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from bowsprit_operator.resources import conditions, labels
from bowsprit_operator.resources.kinds import DEPLOYMENT
from bowsprit_operator.resources.speculative_model import (
    DecisionEntry,
    EffectiveValues,
    SpeculativeModelStatus,
    SpeculatorInUse,
    SpeculatorRole,
)
from bowsprit_operator.serving import figures
from bowsprit_operator.serving.conditions import Situation, all_findings
from bowsprit_operator.serving.deployment import effective_image
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Plan
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.summaries import ModelSummary
from bowsprit_policy.decision import Decision

NUM_DECISIONS = 10


def compose(
    observed: Observed, plan: Plan, platform: Platform, summary: ModelSummary, *, now: datetime, figures_are_due: bool
) -> SpeculativeModelStatus:
    """`figures_are_due`: the figures in status are old enough to be replaced by materially different ones."""
    model, deployment = observed.model, observed.deployment
    shown = figures.to_show(model.status.speculation, summary.speculation, is_due=figures_are_due)
    situation = Situation(observed=observed, plan=plan, summary=summary, figures=shown)
    generation = model.metadata.generation
    return SpeculativeModelStatus(
        observed_generation=generation,
        replicas=0 if deployment is None else deployment.status.replicas,
        ready_replicas=situation.ready,
        selector=labels.selector(labels.of_component(model.name, labels.Component.ENGINE)),
        conditions=conditions.merge(
            model.status.conditions, all_findings(situation), now=now.replace(microsecond=0), generation=generation
        ),
        effective=_effective(observed, platform, summary),
        speculation=shown,
        speculators=_speculators(observed),
        decisions=_decisions(model.status.decisions, summary.decisions),
    )


def _effective(observed: Observed, platform: Platform, summary: ModelSummary) -> EffectiveValues:
    model = observed.model
    stored = model.status.effective
    return EffectiveValues(
        draft_tokens_max=model.spec.speculation.effective_draft_tokens_max,
        drafters=tuple(drafter.name for drafter in model.spec.speculation.drafters),
        image=effective_image(model, platform, observed.children.get(DEPLOYMENT)),
        model_digest=summary.model_digest or (stored.model_digest if stored else None),
    )


def _speculators(observed: Observed) -> tuple[SpeculatorInUse, ...]:
    if observed.policy is None:
        return ()
    evaluated = {
        revision.name: revision.spec.evaluation.recent.candidate.mean
        for revision in observed.revisions
        if revision.spec.evaluation is not None
    }
    spec = observed.policy.spec
    in_use = [(SpeculatorRole.SERVING, entry) for entry in spec.speculators]
    in_use += [(SpeculatorRole.SHADOW, entry) for entry in spec.candidates]
    return tuple(
        SpeculatorInUse(
            name=entry.drafter,
            revision=entry.revision,
            role=role,
            acceptance_length=f"{evaluated[entry.revision]:.2f}" if entry.revision in evaluated else None,
        )
        for role, entry in in_use
    )


def _decisions(stored: Iterable[DecisionEntry], fresh: Iterable[Decision]) -> tuple[DecisionEntry, ...]:
    """Newest first. A new leader's own list begins empty, so the stored ones stay until they are displaced."""
    entries = [_entry(decision) for decision in fresh]
    entries += [entry for entry in stored if entry not in entries]
    return tuple(sorted(entries, key=lambda entry: entry.time, reverse=True)[:NUM_DECISIONS])


def _entry(decision: Decision) -> DecisionEntry:
    return DecisionEntry(
        time=datetime.fromtimestamp(int(decision.at), tz=UTC),
        kind=decision.kind.value,
        reason=decision.reason,
        message=decision.message[:1024],
        before=decision.before[:256] or None,
        after=decision.after[:256] or None,
    )
