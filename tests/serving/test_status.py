"""Status as tables: what is stored and known on the left, what a user reads on the right."""

import pytest

from bowsprit_operator.resources.conditions import ModelCondition, ModelReason
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.serving import status
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Blocked, Plan, next_step
from bowsprit_operator.summaries import ModelSummary
from serving.composed import NOON, brief, compose, found
from serving.objects import PLATFORM, a_model, a_pod

NOT_STALLED = "False/NotStalled"


@pytest.mark.parametrize(
    ("replicas", "deployment", "ready", "reconciling"),
    [
        (1, {}, "True/AllEnginesReady", "False/Converged"),
        (1, {"readyReplicas": 0}, "False/EnginesStarting", "True/EnginesStarting"),
        (2, {"replicas": 2, "updatedReplicas": 2}, "False/EnginesUnready", "True/EnginesStarting"),
        (1, {"observedGeneration": 0}, "True/AllEnginesReady", "True/EnginesRolling"),
        (1, {"replicas": 2}, "True/AllEnginesReady", "True/EnginesRolling"),
        (1, {"updatedReplicas": 0}, "True/AllEnginesReady", "True/EnginesRolling"),
        (0, {"replicas": 0, "readyReplicas": 0, "updatedReplicas": 0}, "True/ScaledToZero", "False/Converged"),
    ],
)
def test_ready_and_reconciling_follow_the_deployment(
    replicas: int, deployment: dict[str, int], ready: str, reconciling: str
) -> None:
    """Nothing is stalled while the Deployment moves."""
    written = compose(a_model(replicas=replicas), deployment=deployment)
    assert brief(written) == {"Ready": ready, "Reconciling": reconciling, "Stalled": NOT_STALLED}


PULL = ("ImagePullBackOff", "back-off pulling image")
CRASH = ("CrashLoopBackOff", "back-off 10s")
CAUSE = {
    "restartCount": 3,
    "lastState": {"terminated": {"exitCode": 1, "message": "ModelError: /claims/models/m.gguf: no such file"}},
}


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (a_pod(ready=False, waiting=PULL), "ImagePullFailed", "ImagePullBackOff: back-off pulling image"),
        (
            a_pod(ready=False, waiting=CRASH, **CAUSE),
            "EngineCrashing",
            "pod m-1: engine ended with exit code 1: ModelError: /claims/models/m.gguf: no such file (restarts: 3)",
        ),
        (
            a_pod(ready=False, waiting=("CreateContainerConfigError", "secret not found")),
            "PodConfigRefused",
            "secret not found",
        ),
    ],
)
def test_a_pod_that_cannot_start_stalls_the_model_and_says_why(pod: Pod, reason: str, words: str) -> None:
    """Ready has the same reason and the same words."""
    written = compose(a_model(), deployment={"readyReplicas": 0}, pods=(pod,))
    assert brief(written) == {
        "Ready": f"False/{reason}",
        "Reconciling": f"False/{reason}",
        "Stalled": f"True/{reason}",
    }
    assert words in found(written, ModelCondition.READY)[2]


def test_a_first_crash_is_told_but_does_not_stall() -> None:
    """Kubernetes restarts it at once: it may well come up."""
    once = {"restartCount": 1, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    written = compose(a_model(), deployment={"readyReplicas": 0}, pods=(a_pod(ready=False, **once),))
    assert brief(written)["Stalled"] == NOT_STALLED
    assert "exit code 137 (OOMKilled)" in found(written, ModelCondition.READY)[2]


def test_a_crash_loop_stays_stalled_between_two_restarts() -> None:
    """While the container runs for a moment before it ends again, nothing has become better."""
    looping = compose(a_model(), deployment={"readyReplicas": 0}, pods=(a_pod(ready=False, waiting=CRASH, **CAUSE),))
    model = a_model(status=looping.manifest())
    between = compose(model, deployment={"readyReplicas": 0}, pods=(a_pod(ready=False, **CAUSE),))
    assert brief(between)["Stalled"] == "True/EngineCrashing"


def test_a_pod_that_waits_for_its_claim_reconciles_until_the_deadline() -> None:
    """The claim may be created any moment; after the deadline the same cause stalls."""
    message = 'persistentvolumeclaim "models" not found'
    pod = a_pod(ready=False)
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod = Pod.model_validate(pod.manifest() | {"status": {"phase": "Pending", "conditions": [waiting]}})
    early = compose(a_model(), deployment={"readyReplicas": 0}, pods=(pod,))
    late = compose(
        a_model(),
        deployment={
            "readyReplicas": 0,
            "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
        },
        pods=(pod,),
    )
    assert brief(early) == {
        "Ready": "False/ClaimMissing",
        "Reconciling": "True/EnginesStarting",
        "Stalled": NOT_STALLED,
    }
    assert brief(late)["Stalled"] == "True/ProgressDeadlineExceeded"
    assert message in found(late, ModelCondition.STALLED)[2]


def test_every_condition_type_is_in_the_first_status() -> None:
    """Unknown included: a checker that waits for a type must find it."""
    model = a_model(generation=7)
    stored = Observed(model=model)
    plan = next_step(stored, PLATFORM)
    written = status.compose(stored, plan, PLATFORM, ModelSummary(), now=NOON, figures_are_due=True)
    assert [condition.type for condition in written.conditions] == [type_.value for type_ in ModelCondition]
    assert {condition.observed_generation for condition in written.conditions} == {7}
    assert (written.observed_generation, brief(written)["Ready"]) == (7, "False/WritingChildren")


def test_a_blocked_plan_is_what_the_user_reads() -> None:
    """Refused by the API server, or somebody else's object: Stalled with the words of who refused."""
    model = a_model()
    plan = Plan(blocked=Blocked(reason=ModelReason.SPEC_REFUSED, message="422 spec.template: Invalid value"))
    stored = Observed(model=model)
    written = status.compose(stored, plan, PLATFORM, ModelSummary(), now=NOON, figures_are_due=True)
    assert found(written, ModelCondition.STALLED) == ("True", "SpecRefused", "422 spec.template: Invalid value")
