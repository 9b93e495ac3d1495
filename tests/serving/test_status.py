"""Status as tables: what is stored and known on the left, what a user reads on the right."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bowsprit_operator.resources.conditions import ModelCondition, ModelReason
from bowsprit_operator.resources.speculative_model import SpeculativeModel, SpeculativeModelStatus
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.serving import status
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Blocked, Plan, next_step
from bowsprit_operator.summaries import ModelSummary, PodReport
from bowsprit_policy.control import SpeculationSummary
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.wire import DrafterState, DrafterStats, DrafterType, LoweredDrafter
from serving.objects import PLATFORM, TRAINED, a_model, a_pod, a_policy, converged, with_status

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


def test_a_broken_drafter_is_named_with_its_pod() -> None:
    """The pod stays Ready and serves plainly."""
    broken = DrafterStats(name="head", type=DrafterType.HEAD, state=DrafterState.BROKEN, reason="self-test failed")
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


WANTED = ({"drafter": "head", "revision": "m-head-2", "uri": "file:///s", "sha256": "0" * 64},)


def acknowledged(revision: str | None, state: str = "Active", message: str | None = None) -> dict[str, Any]:
    """What pod m-1 says about its head."""
    return {
        "name": "m-1",
        "uid": "uid-m-1",
        "revision": 3,
        "speculators": [{"drafter": "head", "revision": revision, "state": state}],
        "message": message,
    }


@pytest.mark.parametrize(
    ("policy", "status_", "reason"),
    [
        (None, "False", "Untrained"),
        (a_policy(), "False", "Untrained"),
        (a_policy(speculators=WANTED), "False", "SpeculatorLoading"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-1"),)), "False", "SpeculatorLoading"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-2"),)), "True", "SpeculatorLoaded"),
        (a_policy(speculators=WANTED, pods=(acknowledged("m-head-2", "Broken"),)), "False", "SpeculatorRefused"),
    ],
)
def test_the_speculator_is_current_when_every_pod_has_acknowledged_it(policy: Any, status_: str, reason: str) -> None:
    """The DraftPolicy is the only desired state."""
    written = compose(a_model(**TRAINED), policy=policy)
    assert found(written, ModelCondition.SPECULATOR_CURRENT)[:2] == (status_, reason)


def test_a_pinned_revision_that_does_not_exist_is_named() -> None:
    """A typing error in git must not look like training."""
    spec = TRAINED | {"speculation": {"drafters": [{"name": "head", "type": "Head", "revision": "m-head-9"}]}}
    expected = ("False", "RevisionMissing", "SpeculatorRevision m-head-9 doesn't exist")
    assert found(compose(a_model(**spec)), ModelCondition.SPECULATOR_CURRENT) == expected


def test_speculators_in_use_show_what_their_evaluation_measured() -> None:
    """Rounded to two decimals."""
    interval = {"mean": "2.3456", "low": "2.2", "high": "2.5", "requests": 200}
    revision = SpeculatorRevision.model_validate(
        {
            "metadata": {"name": "m-head-2", "namespace": "ns"},
            "spec": {
                "modelName": "m",
                "drafter": "head",
                "number": 2,
                "modelDigest": "d" * 64,
                "artifact": {"uri": "file:///s", "sha256": "0" * 64, "bytes": 1},
                "evaluation": {"recent": {"incumbent": interval, "candidate": interval, "gain": interval}},
            },
        }
    )
    written = compose(a_model(**TRAINED), policy=a_policy(speculators=WANTED), revisions=(revision,))
    assert [speculator.manifest() for speculator in written.speculators] == [
        {"name": "head", "revision": "m-head-2", "role": "Serving", "acceptanceLength": "2.35"}
    ]


CANDIDATES = (WANTED[0] | {"revision": "m-head-3"},)


def test_a_candidate_is_shown_beside_what_serves() -> None:
    """By its role; SpeculatorCurrent is about what serves, and names it."""
    policy = a_policy(speculators=WANTED, candidates=CANDIDATES, pods=(acknowledged("m-head-2"),))
    written = compose(a_model(**TRAINED), policy=policy)
    in_use = [(entry.name, entry.revision, entry.role.value) for entry in written.speculators]
    assert in_use == [("head", "m-head-2", "Serving"), ("head", "m-head-3", "Shadow")]
    expected = ("True", "SpeculatorLoaded", "m-head-2 serves on 1 pods; m-head-3 drafts in the shadow")
    assert found(written, ModelCondition.SPECULATOR_CURRENT) == expected


def test_a_first_candidate_is_why_nothing_is_promoted_yet() -> None:
    """Whoever waits for the first head sees that there is one."""
    written = compose(a_model(**TRAINED), policy=a_policy(candidates=CANDIDATES))
    message = "no revision is promoted; m-head-3 passed the gate and drafts in the shadow"
    assert found(written, ModelCondition.SPECULATOR_CURRENT) == ("False", "SpeculatorInShadow", message)


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


def test_a_blocked_plan_is_what_the_user_reads() -> None:
    """Refused by the API server, or somebody else's object: Stalled with the words of who refused."""
    model = a_model()
    plan = Plan(blocked=Blocked(reason=ModelReason.SPEC_REFUSED, message="422 spec.template: Invalid value"))
    stored = Observed(model=model)
    written = status.compose(stored, plan, PLATFORM, ModelSummary(), now=NOON, figures_are_due=True)
    assert found(written, ModelCondition.STALLED) == ("True", "SpecRefused", "422 spec.template: Invalid value")
