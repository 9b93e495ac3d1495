"""A model, its runs and its revisions, as the learning loop reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bowsprit_operator.learning import verdict
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.resources.workloads import Job, Pod
from bowsprit_operator.serving.platform import Platform
from bowsprit_policy import gate
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
