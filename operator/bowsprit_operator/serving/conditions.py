"""The findings behind each condition of a SpeculativeModel: one function per type. Pure.

Every type is always found something about, Unknown included. Refuses to know how findings are stored or merged.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_operator.resources import conditions
from bowsprit_operator.resources.conditions import ConditionStatus, Finding, ModelCondition, ModelReason
from bowsprit_operator.resources.draft_policy import LoadedSpeculator
from bowsprit_operator.resources.speculative_model import SpeculationFigures
from bowsprit_operator.resources.speculator_training import TrainingOutcome
from bowsprit_operator.serving.faults import Fault, first_fault
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Plan
from bowsprit_operator.summaries import ModelSummary
from bowsprit_policy.observation import SpeculationMode
from bowsprit_policy.wire import DrafterState, DrafterType
from bowsprit_policy.worth import LearningReason

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the findings are made from. `figures`: as status will show them."""

    observed: Observed
    plan: Plan
    summary: ModelSummary
    figures: SpeculationFigures | None

    @property
    def fault(self) -> Fault | None:
        if self.plan.blocked is not None:
            return Fault(reason=self.plan.blocked.reason, message=self.plan.blocked.message, is_terminal=True)
        observed = self.observed
        return first_fault(observed.pods, observed.deployment, observed.model.status.conditions)

    @property
    def wanted(self) -> int:
        return self.observed.model.spec.replicas

    @property
    def ready(self) -> int:
        deployment = self.observed.deployment
        return 0 if deployment is None else deployment.status.ready_replicas


def all_findings(situation: Situation) -> tuple[Finding, ...]:
    """In the order in which status lists them."""
    stalled, reconciling, engines = _stalled(situation), _reconciling(situation), _engines_ready(situation)
    return (
        _ready(situation, stalled, engines),
        reconciling,
        stalled,
        engines,
        _speculation_effective(situation),
        _metrics_available(situation),
        _speculator_current(situation),
        _output_verified(),
    )


def _finding(type_: ModelCondition, status: ConditionStatus, reason: ModelReason, message: str) -> Finding:
    return Finding(type=type_.value, status=status, reason=reason.value, message=message[:4000])


def _ready(situation: Situation, stalled: Finding, engines: Finding) -> Finding:
    if stalled.status is TRUE:
        return _finding(ModelCondition.READY, FALSE, ModelReason(stalled.reason), stalled.message)
    if engines.reason == ModelReason.SCALED_TO_ZERO:
        return _finding(ModelCondition.READY, TRUE, ModelReason.SCALED_TO_ZERO, engines.message)
    if situation.plan.actions and situation.observed.deployment is None:
        message = "writing the objects that engines need"
        return _finding(ModelCondition.READY, FALSE, ModelReason.WRITING_CHILDREN, message)
    return _finding(ModelCondition.READY, engines.status, ModelReason(engines.reason), engines.message)


def _stalled(situation: Situation) -> Finding:
    fault = situation.fault
    if fault is not None and fault.is_terminal:
        return _finding(ModelCondition.STALLED, TRUE, fault.reason, fault.message)
    return _finding(ModelCondition.STALLED, FALSE, ModelReason.NOT_STALLED, "")


def _reconciling(situation: Situation) -> Finding:
    type_, fault = ModelCondition.RECONCILING, situation.fault
    if situation.observed.model.metadata.deletion_timestamp is not None:
        return _finding(type_, TRUE, ModelReason.DELETING, "")
    if fault is not None and fault.is_terminal:
        return _finding(type_, FALSE, fault.reason, "stalled")
    if situation.plan.actions:
        return _finding(type_, TRUE, ModelReason.WRITING_CHILDREN, situation.plan.reason)
    deployment = situation.observed.deployment
    if deployment is None:
        return _finding(type_, TRUE, ModelReason.WRITING_CHILDREN, "")
    status = deployment.status
    if status.observed_generation < (deployment.metadata.generation or 0) or status.updated_replicas < situation.wanted:
        message = f"{status.updated_replicas} of {situation.wanted} engines are of the newest spec"
        return _finding(type_, TRUE, ModelReason.ENGINES_ROLLING, message)
    if status.replicas > status.updated_replicas or status.replicas > situation.wanted:
        return _finding(type_, TRUE, ModelReason.ENGINES_ROLLING, "engines of an older spec are ending")
    if status.ready_replicas < situation.wanted:
        return _finding(type_, TRUE, ModelReason.ENGINES_STARTING, _waiting_for(situation))
    return _finding(type_, FALSE, ModelReason.CONVERGED, "")


def _engines_ready(situation: Situation) -> Finding:
    type_ = ModelCondition.ENGINES_READY
    if situation.observed.deployment is None:
        return _finding(type_, FALSE, ModelReason.ENGINES_STARTING, "the Deployment doesn't exist yet")
    if situation.wanted == 0:
        return _finding(type_, FALSE, ModelReason.SCALED_TO_ZERO, "spec.replicas is 0")
    if situation.ready >= situation.wanted:
        return _finding(type_, TRUE, ModelReason.ALL_ENGINES_READY, f"{situation.ready} of {situation.wanted} engines")
    fault = situation.fault
    reason = fault.reason if fault else ModelReason.ENGINES_UNREADY if situation.ready else ModelReason.ENGINES_STARTING
    return _finding(type_, FALSE, reason, _waiting_for(situation))


def _waiting_for(situation: Situation) -> str:
    count = f"{situation.ready} of {situation.wanted} engines are ready"
    return f"{count}; {situation.fault.message}" if situation.fault else count


def _speculation_effective(situation: Situation) -> Finding:
    type_, figures = ModelCondition.SPECULATION_EFFECTIVE, situation.figures
    if situation.observed.model.spec.speculation.mode is SpeculationMode.OFF:
        return _finding(type_, FALSE, ModelReason.OFF_BY_SPEC, "spec.speculation.mode is Off")
    broken = [
        f"pod {pod.name}: {drafter.name}: {drafter.reason}"
        for pod in situation.summary.pods
        for drafter in pod.drafters
        if drafter.state is DrafterState.BROKEN
    ]
    if broken:
        return _finding(type_, FALSE, ModelReason.DRAFTER_BROKEN, "; ".join(broken))
    if figures is None or figures.speedup is None:
        message = f"no steps without speculation were measured yet{_held(situation)}"
        return _finding(type_, UNKNOWN, ModelReason.NO_BASELINE_YET, message)
    message = (
        f"{figures.speedup}x against measured steps without speculation, K={figures.draft_tokens}{_held(situation)}"
    )
    if figures.draft_tokens and float(figures.speedup) > 1.0:
        return _finding(type_, TRUE, ModelReason.SPECULATION_PAYS, message)
    return _finding(type_, FALSE, ModelReason.SPECULATION_LOSES, message)


def _held(situation: Situation) -> str:
    """Drafters that engines hold below the table by themselves, and at which batches."""
    batches: dict[str, set[int]] = {}
    for pod in situation.summary.pods:
        for lowered in pod.lowered:
            batches.setdefault(lowered.name, set()).update(lowered.batches)
    held = [
        f"{name} at K=0" + (f" at batch {', '.join(map(str, sorted(found)))}" if found else "")
        for name, found in sorted(batches.items())
    ]
    return f"; engines hold {' and '.join(held)}" if held else ""


def _metrics_available(situation: Situation) -> Finding:
    type_, summary = ModelCondition.METRICS_AVAILABLE, situation.summary
    if summary.scraped_at is None:
        stored = conditions.find(situation.observed.model.status.conditions, type_)
        if stored is not None:  # a new leader has not scraped yet
            return Finding(type=stored.type, status=stored.status, reason=stored.reason, message=stored.message)
        return _finding(type_, UNKNOWN, ModelReason.METRICS_MISSING, "engines were not asked yet")
    if not summary.pods:
        return _finding(type_, UNKNOWN, ModelReason.NO_ENGINES, "no engine is ready")
    failures = [f"{pod.name}: {pod.failure}" for pod in summary.pods if pod.failure is not None]
    if len(failures) == len(summary.pods):
        return _finding(type_, FALSE, ModelReason.METRICS_MISSING, f"no engine answers: {'; '.join(failures)}")
    message = f"some engines don't answer: {'; '.join(failures)}" if failures else ""
    return _finding(type_, TRUE, ModelReason.METRICS_FRESH, message)


def _speculator_current(situation: Situation) -> Finding:
    """Whether every pod that acknowledged anything serves the revisions that the DraftPolicy wants."""
    type_, observed = ModelCondition.SPECULATOR_CURRENT, situation.observed
    heads = [drafter for drafter in observed.model.spec.speculation.drafters if drafter.type is DrafterType.HEAD]
    if not heads:
        return _finding(type_, TRUE, ModelReason.NOT_TRAINED_HERE, "no drafter of type Head")
    known = {revision.name for revision in observed.revisions}
    missing = [drafter.revision for drafter in heads if drafter.revision and drafter.revision not in known]
    if missing:
        message = f"SpeculatorRevision {', '.join(missing)} doesn't exist"
        return _finding(type_, FALSE, ModelReason.REVISION_MISSING, message)
    wanted = {} if observed.policy is None else {entry.drafter: entry for entry in observed.policy.spec.speculators}
    if not wanted:
        return _untrained(situation)
    pods = () if observed.policy is None else observed.policy.status.pods
    behind, refused = [], []
    for pod in pods:
        loaded = {speculator.drafter: speculator for speculator in pod.speculators}
        for drafter, entry in wanted.items():
            found = loaded.get(drafter, LoadedSpeculator(drafter=drafter, state=DrafterState.EMPTY))
            if found.state is DrafterState.BROKEN:
                refused.append(f"{pod.name} refused {entry.revision}: {pod.message or 'its self-test failed'}")
            elif found.revision != entry.revision:
                behind.append(
                    f"{pod.name} has {found.revision or 'none'}" + (f": {pod.message}" if pod.message else "")
                )
    revisions = ", ".join(entry.revision for entry in wanted.values())
    if refused:
        return _finding(type_, FALSE, ModelReason.SPECULATOR_REFUSED, "; ".join(refused))
    if behind or not pods:
        return _finding(type_, FALSE, ModelReason.SPECULATOR_LOADING, f"{revisions} wanted; {'; '.join(behind)}")
    beside = f"; {candidates} drafts in the shadow" if (candidates := _candidates(situation)) else ""
    return _finding(type_, TRUE, ModelReason.SPECULATOR_LOADED, f"{revisions} serves on {len(pods)} pods{beside}")


def _candidates(situation: Situation) -> str:
    policy = situation.observed.policy
    return "" if policy is None else ", ".join(entry.revision for entry in policy.spec.candidates)


def _untrained(situation: Situation) -> Finding:
    if candidates := _candidates(situation):
        message = f"no revision is promoted; {candidates} passed the gate and drafts in the shadow"
        return _finding(ModelCondition.SPECULATOR_CURRENT, FALSE, ModelReason.SPECULATOR_IN_SHADOW, message)
    running = [
        training.name for training in situation.observed.trainings if training.status.outcome is TrainingOutcome.RUNNING
    ]
    if running:
        message = f"SpeculatorTraining {', '.join(running)} runs"
        return _finding(ModelCondition.SPECULATOR_CURRENT, FALSE, ModelReason.TRAINING_RUNNING, message)
    reason = situation.summary.learning_reason
    message = f"no revision is promoted ({reason})" if reason else "no revision is promoted"
    if reason == LearningReason.IMAGE_REFUSES_FLAGS:  # only the user can mend it
        message = f"{message}: {situation.summary.learning_message}"
    return _finding(ModelCondition.SPECULATOR_CURRENT, FALSE, ModelReason.UNTRAINED, message)


def _output_verified() -> Finding:
    message = "outputs of live traffic are not compared yet; equality is tested before release"
    return _finding(ModelCondition.OUTPUT_VERIFIED, UNKNOWN, ModelReason.NOT_CHECKED, message)
