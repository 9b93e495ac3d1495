"""The pure part of learning, as tables: how a run ends, what it is called, whether it may run, and what its Job is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bowsprit_operator.learning import job, outcome, runs
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.resources.workloads import Job, Pod
from bowsprit_policy.learning import LearningReason, TrainingStart
from builders import training_result
from loops.learning_objects import BEGIN, PLATFORM, a_job, a_model, a_pod, a_revision, a_training

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
    (
        "of an older version",
        a_job(),
        (a_pod(exit_code=2, message="Usage: bowsprit-engine train\n\nError: No such option: --scratch-dir"),),
        "ImageRefusesFlags",
    ),
    ("a bad value of ours", a_job(), (a_pod(exit_code=2, message="error: --threads: '0'"),), "PodFailed"),
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


def ended_run(number: int, image: str, reason: str, *, minutes: int) -> SpeculatorTraining:
    """It ended so many minutes after all began."""
    failed = {"type": "Failed", "status": "True", "reason": reason, "message": "", "lastTransitionTime": BEGIN}
    return a_training(
        f"m-head-{number}", image=image, completionTime=BEGIN + timedelta(minutes=minutes), conditions=[failed]
    )


@pytest.mark.parametrize(
    ("trainings", "named"),
    [
        ((), None),
        ((ended_run(1, "engine:dev", "PodFailed", minutes=1),), None),
        ((ended_run(1, "engine:dev", "ImageRefusesFlags", minutes=1),), "m-head-1"),
        ((ended_run(1, "engine:old", "ImageRefusesFlags", minutes=1),), None),  # the image is another one by now
        (
            (
                ended_run(2, "engine:dev", "PodKilled", minutes=9),  # somebody ran it by hand, and it knew the flags
                ended_run(1, "engine:dev", "ImageRefusesFlags", minutes=1),
            ),
            None,
        ),
    ],
)
def test_an_image_that_refused_the_flags_is_not_run_again_by_itself(
    trainings: tuple[SpeculatorTraining, ...], named: str | None
) -> None:
    """Until the image is another one, or a run of it ended otherwise; the refusal names run and image."""
    told = runs.image_refusal(trainings, wanted="engine:dev")
    assert (told is None) == (named is None)
    if told is not None and named is not None:
        assert named in told
        assert "engine:dev" in told


def test_a_run_has_the_users_image_or_the_operators_own() -> None:
    """Not the default that the serving pods were created with, which an older operator had."""
    images = [runs.image(a_model(engine=engine), PLATFORM) for engine in ({"image": "mine:1"}, {})]
    assert images == ["mine:1", "engine:dev"]


def planned(
    model: SpeculativeModel, *, revision: str = "m-head-1", parent: SpeculatorRevision | None = None
) -> job.TrainingPlan:
    storage, training = model.spec.storage, model.spec.training
    assert storage is not None
    assert training is not None
    return job.TrainingPlan(
        model=model,
        training=a_training(),
        settings=training,
        storage=storage,
        revision=revision,
        image="engine:1",
        parent=parent,
    )


def test_the_job_runs_one_thread_and_takes_nothing_from_engines() -> None:
    """Least requests, no retry, no token, the deadline of the budget; and everything that Pod Security asks for."""
    plan = planned(a_model(), revision="m-head-2", parent=a_revision(1))
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
        "--scratch-dir=/scratch",
        f"--scratch-limit={16 * 1024**3}",
        "--control-port=8001",
        "--termination-log=/dev/termination-log",
        "--beside=ngram=NGram",
        "--parent-uri=file:///claims/learning/m-head-1",
        f"--parent-sha256={'b' * 64}",
        "--parent-revision=m-head-1",
    ]


@pytest.mark.parametrize(
    ("resources", "size_limit", "scratch_limit"),
    [
        ({}, "16Gi", 16 * 1024**3),
        ({"limits": {"memory": "2Gi"}}, "16Gi", 16 * 1024**3),
        ({"limits": {"ephemeral-storage": "100Gi"}}, "16Gi", 16 * 1024**3),
        ({"limits": {"ephemeral-storage": "5Gi"}}, "4608Mi", 4608 * 1024**2),
        ({"limits": {"ephemeral-storage": 1000}}, "900", 900),
        ({"limits": {"ephemeral-storage": "much"}}, "16Gi", 16 * 1024**3),
        ({"limits": {"ephemeral-storage": "Infinity"}}, "16Gi", 16 * 1024**3),
        ({"limits": {"ephemeral-storage": "1e400"}}, "16Gi", 16 * 1024**3),
    ],
)
def test_states_stay_within_what_the_pod_may_take_of_the_nodes_disk(
    resources: dict[str, Any], size_limit: str, scratch_limit: int
) -> None:
    """Volume and engine are told the same bound; a user's own limit leaves a tenth for logs and caches.

    One that is no quantity stays in the Job, which the API server then refuses, and stops nothing else.
    """
    model = a_model(training={"drafter": "head", "resources": resources})
    plan = planned(model)
    pod = job.build(plan, PLATFORM)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert {"name": "scratch", "emptyDir": {"sizeLimit": size_limit}} in pod["volumes"]
    assert {"name": "scratch", "mountPath": "/scratch"} in container["volumeMounts"]
    assert [word for word in container["args"] if word.startswith("--scratch")] == [
        "--scratch-dir=/scratch",
        f"--scratch-limit={scratch_limit}",
    ]
    assert container["resources"] == {**resources, "requests": job.FREE_REQUESTS}


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
    plan = planned(model)
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
