"""Writing what a training run's result becomes: the SpeculatorRevision, its conditions, and how the run ended.

A run whose revision goes into the shadow, or waits for the user, has ended as Evaluated, and follows it later. Decides
the order of writes alone (learning/verdict.py decides what is written); cut short anywhere, the same is done again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bowsprit_operator.learning import verdict
from bowsprit_operator.resources import conditions, labels
from bowsprit_operator.resources.conditions import (
    Condition,
    ConditionStatus,
    Finding,
    RevisionCondition,
    TrainingCondition,
    merge,
)
from bowsprit_operator.resources.kinds import SPECULATOR_REVISION
from bowsprit_operator.resources.names import LEARNING_LOOP
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import RevisionStage, SpeculatorRevision
from bowsprit_operator.resources.speculator_training import RunProgress, SpeculatorTraining, TrainingOutcome
from bowsprit_operator.world.cluster import Cluster, ConflictError
from bowsprit_policy import gate
from bowsprit_policy.decision import Decision
from bowsprit_policy.gate import GateInputs
from bowsprit_policy.observation import PromotionMode
from bowsprit_policy.wire import TrainingPhase, TrainingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run in one tick."""

    training: SpeculatorTraining
    model: SpeculativeModel
    incumbent: SpeculatorRevision | None
    model_digest: str | None
    now: float


async def conclude(
    cluster: Cluster, run: Run, result: TrainingResult, *, name: str, number: int
) -> tuple[Decision, ...]:
    """Revision, then its conditions, then the run's end. Returns the decision that a rejection is."""
    inputs = GateInputs(
        evaluation=result.evaluation,
        min_gain=run.model.spec.promotion.min_gain,
        candidate_model_digest=result.model_digest,
        serving_model_digest=run.model_digest,
    )
    judgement = gate.decide(inputs)
    after, moment = _after_gate(run), verdict.moment(run.now)
    stored = await _keep(cluster, verdict.revision_of(run.training, result, name=name, number=number))
    if not conditions.is_true(stored.status.conditions, RevisionCondition.EVALUATED):
        judged = verdict.judged(stored, judgement, after, moment)
        await cluster.apply_status(stored, judged, manager=LEARNING_LOOP)
    ended = verdict.outcome_of(judgement, after)
    status = run.training.status.model_copy(
        update={
            "observed_generation": run.training.metadata.generation,
            "conditions": conditions_of_run(
                run, complete=True, failed=False, reason=judgement.reason, message=judgement.message
            ),
            "outcome": ended,
            "gain": None if result.evaluation is None else result.evaluation.recent.gain.mean,
            "completion_time": moment,
            "progress": RunProgress(phase=TrainingPhase.DONE),
        }
    )
    await cluster.apply_status(run.training, status, manager=LEARNING_LOOP)
    if ended is not TrainingOutcome.REJECTED:
        return ()
    incumbent = None if run.incumbent is None else run.incumbent.name
    return (gate.rejection(inputs, judgement, candidate=name, incumbent=incumbent, now=run.now),)


_OUTCOMES = {RevisionStage.PROMOTED: TrainingOutcome.PROMOTED, RevisionStage.REJECTED: TrainingOutcome.REJECTED}


async def follow(
    cluster: Cluster, trainings: Iterable[SpeculatorTraining], revisions: Iterable[SpeculatorRevision]
) -> None:
    """Runs that ended as Evaluated, and whose revision was promoted or rejected since, say so."""
    stages = {revision.name: revision.status.stage for revision in revisions}
    for training in trainings:
        stage = stages.get(training.status.revision or "")
        if training.status.outcome is TrainingOutcome.EVALUATED and stage in _OUTCOMES:
            status = training.status.model_copy(update={"outcome": _OUTCOMES[stage]})
            await cluster.apply_status(training, status, manager=LEARNING_LOOP)


def conditions_of_run(run: Run, *, complete: bool, failed: bool, reason: str, message: str) -> tuple[Condition, ...]:
    """Of its SpeculatorTraining."""
    findings = tuple(
        Finding(
            type=type_,
            status=ConditionStatus.TRUE if is_true else ConditionStatus.FALSE,
            reason=reason,
            message=message[:4096],
        )
        for type_, is_true in ((TrainingCondition.COMPLETE, complete), (TrainingCondition.FAILED, failed))
    )
    return merge(
        run.training.status.conditions,
        findings,
        now=verdict.moment(run.now),
        generation=run.training.metadata.generation,
    )


async def _keep(cluster: Cluster, revision: SpeculatorRevision) -> SpeculatorRevision:
    """Store it. One that is there already is this one, since its name was reserved before the Job began."""
    manifest = {
        "metadata": {
            "name": revision.name,
            "namespace": revision.namespace,
            "labels": {labels.MODEL: revision.spec.model_name, labels.DRAFTER: revision.spec.drafter},
        },
        "spec": revision.spec.manifest(),
    }
    try:
        created = await cluster.create(SPECULATOR_REVISION, manifest, manager=LEARNING_LOOP)
    except ConflictError:
        existing = await cluster.read(SpeculatorRevision, revision.namespace, revision.name)
        if existing is None:
            raise
        return existing
    return SpeculatorRevision.model_validate(created)


def _after_gate(run: Run) -> verdict.AfterGate:
    drafters, promotion = run.model.spec.speculation.drafters, run.model.spec.promotion
    pinned = next((d.revision for d in drafters if d.name == run.training.spec.drafter), None)
    if promotion.mode is not PromotionMode.AUTO or pinned is not None:
        return verdict.AfterGate.WAITS_FOR_USER
    return verdict.AfterGate.IS_SHADOWED if promotion.shadow else verdict.AfterGate.SERVES
