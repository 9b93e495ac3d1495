"""The pure part of learning, as tables: how a run ends, what it is called, whether it may run, and what its Job is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bowsprit_operator.learning import desired, job, outcome, runs, verdict
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicySpec
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.resources.workloads import Job, Pod
from bowsprit_operator.serving.platform import Platform
from bowsprit_policy import gate
from bowsprit_policy.learning import LearningReason, TrainingStart
from bowsprit_policy.promotion import PromotionReason
from bowsprit_policy.shadow import ShadowReason
from builders import MODEL_DIGEST, training_result

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PLATFORM = Platform(engine_image="engine:dev", operator_namespace="system", subject="me", issuer="here", jwks="{}")


def a_model(**spec: Any) -> SpeculativeModel:
    return SpeculativeModel.model_validate(
        {
            "metadata": {"name": "m", "namespace": "ns", "uid": "model-uid"},
            "spec": {
                "model": {"uri": "pvc://weights/m.gguf"},
                "speculation": {"drafters": [{"name": "ngram", "type": "NGram"}, {"name": "head", "type": "Head"}]},
                "training": {"drafter": "head", "budget": {"deadline": "10m"}},
                "storage": {"claimName": "learning"},
            }
            | spec,
        }
    )


def a_training(name: str = "m-head-1", *, age: int = 0, drafter: str = "head", **status: Any) -> SpeculatorTraining:
    return SpeculatorTraining.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": f"uid-of-{name}",
                "creationTimestamp": (BEGIN - timedelta(minutes=age)).isoformat(),
            },
            "spec": {"modelName": "m", "drafter": drafter},
            "status": status,
        }
    )


def a_revision(
    number: int, *, passed: bool = True, claim: str = "learning", drafter: str = "head", is_shadowed: bool = True
) -> SpeculatorRevision:
    """`is_shadowed`: its time in the shadow has ended well."""
    judged = gate.judge(
        training_result(candidate=2.4 if passed else 1.9).evaluation,
        min_gain=0.02,
        candidate_model_digest=MODEL_DIGEST,
        serving_model_digest=MODEL_DIGEST,
    )
    name = f"m-{drafter}-{number}"
    result = training_result(revision=name)
    made = verdict.revision_of(a_training(name, drafter=drafter), result, name=name, number=number)
    assert made.spec.artifact.uri.startswith("file:///claims/learning/")
    artifact = made.spec.artifact.model_copy(update={"uri": f"file:///claims/{claim}/{name}"})
    status = verdict.judged(made, judged, verdict.AfterGate.IS_SHADOWED, BEGIN)
    if is_shadowed:
        ended = verdict.finding(RevisionCondition.SHADOWED, True, ShadowReason.BETTER_IN_SHADOW, "0.62 more")
        status = verdict.with_findings(status, (ended,), now=BEGIN)
    return made.model_copy(update={"spec": made.spec.model_copy(update={"artifact": artifact}), "status": status})


def a_job(*, failed: str | None = None, complete: bool = False) -> Job:
    conditions = [{"type": "Failed", "status": "True", "reason": failed, "message": "says the Job"}] if failed else []
    conditions += [{"type": "Complete", "status": "True"}] if complete else []
    return Job.model_validate({"metadata": {"name": "m-head-1"}, "status": {"conditions": conditions}})


def a_pod(*, exit_code: int, reason: str = "Error", message: str = "") -> Pod:
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    status = {"containerStatuses": [{"name": "train", "state": {"terminated": terminated}}]}
    return Pod.model_validate({"metadata": {"name": "pod"}, "status": status})


RESULT = training_result(revision="m-head-1")
RESULT_TEXT = RESULT.model_dump_json(by_alias=True)
ENDS: list[tuple[str, Job, tuple[Pod, ...], str | None]] = [
    ("nothing has ended yet", a_job(), (), None),
    ("the pod wrote a result", a_job(), (a_pod(exit_code=0, message=RESULT_TEXT),), "Evaluated"),
    ("killed after writing its result", a_job(), (a_pod(exit_code=137, message=RESULT_TEXT),), "Evaluated"),
    ("the deadline came", a_job(failed="DeadlineExceeded"), (), "DeadlineExceeded"),
    (
        "the deadline came and the pod is still listed",
        a_job(failed="DeadlineExceeded"),
        (a_pod(exit_code=143),),
        "DeadlineExceeded",
    ),
    ("out of memory", a_job(), (a_pod(exit_code=137, reason="OOMKilled"),), "OutOfMemory"),
    ("killed", a_job(), (a_pod(exit_code=137),), "PodKilled"),
    ("crashed", a_job(), (a_pod(exit_code=1, message="boom"),), "PodFailed"),
    ("deleted", a_job(failed="BackoffLimitExceeded"), (), "PodLost"),
    ("complete, but the pod is gone", a_job(complete=True), (), "PodLost"),
    ("its message is no result", a_job(), (a_pod(exit_code=0, message="hello"),), "ResultUnreadable"),
    (
        "it made another revision",
        a_job(),
        (a_pod(exit_code=0, message=training_result(revision="m-head-9").model_dump_json(by_alias=True)),),
        "ResultOfAnotherRun",
    ),
    (
        "it has no evaluation",
        a_job(),
        (a_pod(exit_code=0, message=RESULT.model_copy(update={"evaluation": None}).model_dump_json(by_alias=True)),),
        "EvaluationMissing",
    ),
]


@pytest.mark.parametrize(("story", "stored", "pods", "expected"), ENDS, ids=[end[0] for end in ENDS])
def test_how_a_run_ended_is_read_from_its_job_and_pods(
    story: str, stored: Job, pods: tuple[Pod, ...], expected: str | None
) -> None:
    """The pod's own words first, then the Job's, then the kubelet's."""
    end = outcome.of_run(revision="m-head-1", job=stored, pods=pods)
    told = end.reason if isinstance(end, outcome.Failed) else "Evaluated" if end is not None else None
    assert told == expected


def test_runs_are_worked_on_one_at_a_time_in_their_order() -> None:
    """One that has begun goes on; then the oldest; finished ones are no work."""
    done = {
        "conditions": [{"type": "Complete", "status": "True", "reason": "r", "lastTransitionTime": BEGIN.isoformat()}]
    }
    begun = a_training("begun", revision="m-head-3")
    waiting = [a_training("young"), a_training("old", age=9)]
    chosen = [
        runs.current([*waiting, begun, a_training("done", age=99, **done)]),
        runs.current(waiting),
        runs.current([a_training("done", **done)]),
    ]
    assert [run and run.name for run in chosen] == ["begun", "old", None]


@pytest.mark.parametrize(
    ("name", "others", "revisions", "expected"),
    [
        ("m-head-1", [], [], "m-head-1"),
        ("by-hand", [], [], "m-head-1"),
        ("by-hand", [], [a_revision(4)], "m-head-5"),
        ("by-hand", [a_training("x", revision="m-head-6")], [a_revision(4)], "m-head-7"),
        ("m-head-4", [], [a_revision(4)], "m-head-5"),
    ],
    ids=["its own number", "the first", "after a deleted model's", "after a run without revision", "number taken"],
)
def test_a_revision_gets_a_number_that_was_never_used(
    name: str, others: list[SpeculatorTraining], revisions: list[SpeculatorRevision], expected: str
) -> None:
    """Artifacts of an earlier revision must never be written over."""
    training = a_training(name)
    assert runs.revision_name(training, trainings=[training, *others], revisions=revisions) == expected


@pytest.mark.parametrize(
    ("drafter", "spec", "expected"),
    [
        ("head", {}, None),
        ("other", {}, "DrafterUnknown"),
        ("ngram", {}, "DrafterNotTrainable"),
        ("head", {"training": None}, "TrainingOff"),
        ("head", {"training": {"drafter": "head", "mode": "Off"}}, "TrainingOff"),
        ("head", {"storage": None}, "NoStorage"),
    ],
)
def test_a_run_that_cannot_be_carried_out_is_refused_by_name(
    drafter: str, spec: dict[str, Any], expected: str | None
) -> None:
    """The reason is the condition's; None lets it run."""
    refusal = runs.refusal(a_training(drafter=drafter), a_model(**spec))
    assert (refusal and refusal.reason) == expected


def test_the_job_runs_one_thread_and_takes_nothing_from_engines() -> None:
    """Least requests, no retry, no token, the deadline of the budget; and everything that Pod Security asks for."""
    storage, training = a_model().spec.storage, a_model().spec.training
    assert storage is not None
    assert training is not None
    plan = job.TrainingPlan(
        model=a_model(),
        training=a_training(),
        settings=training,
        storage=storage,
        revision="m-head-2",
        image="engine:1",
        parent=a_revision(1),
    )
    built = job.build(plan, PLATFORM)
    pod = built["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert (built["metadata"]["name"], built["spec"]["backoffLimit"], built["spec"]["activeDeadlineSeconds"]) == (
        "m-head-2",
        0,
        600,
    )
    assert (container["image"], container["resources"]["requests"]) == ("engine:1", job.FREE_REQUESTS)
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["args"] == [
        "train",
        "--model=pvc://weights/m.gguf",
        "--capture-uri=file:///claims/learning/ns/m/model-uid/capture",
        "--output-uri=file:///claims/learning/ns/m/model-uid/speculators/m-head-2",
        "--revision=m-head-2",
        "--drafter=head",
        "--model-name=m",
        "--min-holdout-requests=200",
        "--draft-tokens=4",
        "--draft-tokens-max=8",
        "--deadline-seconds=570",
        "--threads=1",
        "--control-port=8001",
        "--termination-log=/dev/termination-log",
        "--beside=ngram=NGram",
        "--parent-uri=file:///claims/learning/m-head-1",
        f"--parent-sha256={'b' * 64}",
        "--parent-revision=m-head-1",
    ]


def test_the_job_is_told_which_drafters_look_up_beside_the_head() -> None:
    """In the spec's order, under their names; a draft model would have to run, and isn't among them."""
    model = a_model(
        speculation={
            "drafters": [
                {"name": "recent", "type": "Suffix"},
                {"name": "small", "type": "Model", "uri": "pvc://weights/s.gguf"},
                {"name": "head", "type": "Head"},
                {"name": "ngram", "type": "NGram"},
            ],
            "draftTokens": {"max": 3},
        }
    )
    storage, training = model.spec.storage, model.spec.training
    assert storage is not None
    assert training is not None
    plan = job.TrainingPlan(
        model=model,
        training=a_training(),
        settings=training,
        storage=storage,
        revision="m-head-1",
        image="engine:1",
        parent=None,
    )
    arguments = job.build(plan, PLATFORM)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [word for word in arguments if word.startswith(("--beside", "--draft-tokens"))] == [
        "--draft-tokens=3",
        "--draft-tokens-max=3",
        "--beside=recent=Suffix",
        "--beside=ngram=NGram",
    ]


def test_the_training_that_a_trigger_creates_belongs_to_the_model() -> None:
    """It goes with the model; its spec carries the trigger and the numbers behind it."""
    start = TrainingStart(
        trigger=LearningReason.FIRST_TRAFFIC, expected_gain=0.1, saving_seconds=1000.0, cost_seconds=600.0
    )
    made = runs.manifest(a_model(), name="m-head-1", drafter="head", start=start, message="saves 1000 s")
    assert made["metadata"]["ownerReferences"][0]["uid"] == "model-uid"
    assert made["spec"] == {
        "modelName": "m",
        "drafter": "head",
        "trigger": "FirstTraffic",
        "message": "saves 1000 s",
    }


SERVING_1 = DesiredSpeculator(
    drafter="head", revision="m-head-1", uri="file:///claims/learning/m-head-1", sha256="b" * 64
)


@pytest.mark.parametrize(
    ("serving", "revisions", "digest", "expected"),
    [
        ((), [a_revision(1)], MODEL_DIGEST, ("m-head-1", PromotionReason.GATE_PASSED)),
        ((), [a_revision(1, passed=False)], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((), [a_revision(1, claim="another")], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((), [a_revision(1, drafter="other")], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((SERVING_1,), [a_revision(1), a_revision(2)], MODEL_DIGEST, ("m-head-2", PromotionReason.GATE_PASSED)),
        (
            (SERVING_1,),
            [a_revision(1), a_revision(2, passed=False)],
            MODEL_DIGEST,
            ("m-head-1", PromotionReason.NOTHING_NEW),
        ),
        ((SERVING_1,), [a_revision(1)], "c" * 64, (None, PromotionReason.TARGET_CHANGED)),
        ((SERVING_1,), [a_revision(1)], None, ("m-head-1", PromotionReason.NOTHING_NEW)),
    ],
    ids=[
        "the first that passed",
        "a rejected one never",
        "one on another claim never",
        "one of another drafter never",
        "the newest that passed",
        "a rejected one leaves the incumbent",
        "another target: untrained",
        "engines silent: unchanged",
    ],
)
def test_what_a_drafter_should_serve(
    serving: tuple[DesiredSpeculator, ...],
    revisions: list[SpeculatorRevision],
    digest: str | None,
    expected: tuple[str | None, PromotionReason],
) -> None:
    """Only what passed the gate, for this target, and what the pods can reach."""
    stored = DraftPolicySpec(revision=1, speculators=serving)
    (choice,) = desired.choices(a_model(), stored=stored, revisions=revisions, model_digest=digest, now=0.0)
    assert (choice.speculator and choice.speculator.revision, choice.reason) == expected
    assert choice.candidate is None


@pytest.mark.parametrize(
    ("promotion", "expected"),
    [
        ({}, ("m-head-1", "m-head-2", PromotionReason.IN_SHADOW)),
        ({"shadow": "90s"}, ("m-head-1", "m-head-2", PromotionReason.IN_SHADOW)),
        ({"shadow": "0s"}, ("m-head-2", None, PromotionReason.GATE_PASSED)),
        ({"mode": "Manual"}, ("m-head-1", None, PromotionReason.MANUAL)),
    ],
)
def test_what_passed_the_gate_drafts_in_the_shadow_first(
    promotion: dict[str, str], expected: tuple[str, str | None, PromotionReason]
) -> None:
    """Unless the spec leaves that stage out; the candidate is offered from where it is stored."""
    stored = DraftPolicySpec(revision=1, speculators=(SERVING_1,))
    revisions = [a_revision(1), a_revision(2, is_shadowed=False)]
    (choice,) = desired.choices(
        a_model(promotion=promotion), stored=stored, revisions=revisions, model_digest=MODEL_DIGEST, now=0.0
    )
    candidate = choice.candidate
    assert choice.speculator is not None
    assert (choice.speculator.revision, candidate and candidate.revision, choice.reason) == expected
    assert candidate is None or candidate.uri == "file:///claims/learning/m-head-2"


@pytest.mark.parametrize(
    ("reason", "written"),
    [
        (PromotionReason.GATE_PASSED, ("True", "GatePassed", "with the numbers")),
        (PromotionReason.PINNED_BY_SPEC, ("True", "PinnedBySpec", "with the numbers")),
        (PromotionReason.IN_SHADOW, ("True", "GatePassed", "it serves")),
        (PromotionReason.NOTHING_NEW, ("True", "GatePassed", "it serves")),
    ],
)
def test_a_revision_says_why_it_serves_also_after_a_restart(
    reason: PromotionReason, written: tuple[str, str, str]
) -> None:
    """The choice that made it serve is gone then; today's is about none, or about the next candidate."""
    status = verdict.promoted(a_revision(1), reason=reason, message="with the numbers", now=BEGIN)
    (found,) = [condition for condition in status.conditions if condition.type == RevisionCondition.PROMOTED]
    assert ((found.status.value, found.reason, found.message), status.stage) == (written, "Promoted")


@pytest.mark.parametrize(
    ("passed", "after", "outcome_", "stage", "promoted"),
    [
        (True, verdict.AfterGate.SERVES, "Promoted", "Promoted", ("True", "GatePassed")),
        (True, verdict.AfterGate.IS_SHADOWED, "Evaluated", "Evaluated", ("False", "InShadow")),
        (True, verdict.AfterGate.WAITS_FOR_USER, "Evaluated", "Evaluated", ("False", "Manual")),
        (False, verdict.AfterGate.IS_SHADOWED, "Rejected", "Rejected", ("False", "WorseThanIncumbent")),
    ],
)
def test_what_the_gate_says_of_a_run_and_its_revision(
    passed: bool, after: verdict.AfterGate, outcome_: str, stage: str, promoted: tuple[str, str]
) -> None:
    """The run's outcome, the revision's stage and why it does or doesn't serve yet."""
    evaluation = training_result(candidate=2.4 if passed else 1.9).evaluation
    digests = {"candidate_model_digest": MODEL_DIGEST, "serving_model_digest": MODEL_DIGEST}
    judgement = gate.judge(evaluation, min_gain=0.02, **digests)
    made = verdict.revision_of(a_training(), training_result(revision="m-head-1"), name="m-head-1", number=1)
    status = verdict.judged(made, judgement, after, BEGIN)
    found = next(condition for condition in status.conditions if condition.type == RevisionCondition.PROMOTED)
    assert (verdict.outcome_of(judgement, after), status.stage) == (outcome_, stage)
    assert (found.status.value, found.reason) == promoted


def test_while_it_is_in_the_shadow_a_revision_stays_the_candidate() -> None:
    """Shadowed is Unknown then, and has figures in its message already."""
    made = a_revision(2, is_shadowed=False)
    going_on = verdict.finding(RevisionCondition.SHADOWED, None, ShadowReason.SHADOWING, "0.62 more")
    revision = made.model_copy(update={"status": verdict.with_findings(made.status, (going_on,), now=BEGIN)})
    stored = DraftPolicySpec(revision=1, speculators=(SERVING_1,))
    (choice,) = desired.choices(
        a_model(), stored=stored, revisions=[a_revision(1), revision], model_digest=MODEL_DIGEST, now=0.0
    )
    assert choice.speculator == SERVING_1
    assert choice.candidate is not None
    assert choice.candidate.revision == "m-head-2"
