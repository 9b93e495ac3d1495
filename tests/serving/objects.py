"""Stored objects for tests of planning and status: everything has a default, a test names only what it is about."""

from __future__ import annotations

from typing import Any

from bowsprit_operator.resources.actions import Apply
from bowsprit_operator.resources.draft_policy import DraftPolicy
from bowsprit_operator.resources.kinds import DEPLOYMENT, Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import next_step
from bowsprit_operator.serving.platform import Platform

PLATFORM = Platform(
    engine_image="engine:1",
    operator_namespace="bowsprit-system",
    subject="system:serviceaccount:bowsprit-system:bowsprit-operator",
    issuer="https://issuer",
    jwks='{"keys":[]}',
)
TRAINED = {
    "speculation": {"drafters": [{"name": "ngram", "type": "NGram"}, {"name": "head", "type": "Head"}]},
    "training": {"drafter": "head"},
    "storage": {"claimName": "data"},
}


def a_model(
    *, name: str = "m", generation: int = 1, status: dict[str, Any] | None = None, **spec: Any
) -> SpeculativeModel:
    """`spec` overrides parts of a spec that serves pvc://models/m.gguf with every default."""
    return SpeculativeModel.model_validate(
        {
            "metadata": {"name": name, "namespace": "ns", "uid": "uid-m", "generation": generation},
            "spec": {"model": {"uri": "pvc://models/m.gguf"}, **spec},
            "status": status or {},
        }
    )


def converged(model: SpeculativeModel, platform: Platform = PLATFORM) -> dict[Kind, dict[str, Any]]:
    """The children as they are after every step was carried out, and nothing more."""
    children: dict[Kind, dict[str, Any]] = {}
    for _ in range(10):
        plan = next_step(Observed(model=model, children=children), platform)
        if not plan.actions:
            return children
        for action in plan.actions:
            assert isinstance(action, Apply)
            children[action.kind] = action.manifest
    raise AssertionError("the plan never ends")


def with_status(children: dict[Kind, dict[str, Any]], **status: Any) -> dict[Kind, dict[str, Any]]:
    """The same children, the Deployment with a status; one ready engine unless said otherwise."""
    healthy = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    deployment = dict(children[DEPLOYMENT])
    deployment["metadata"] = dict(deployment["metadata"]) | {"generation": 1}
    return children | {DEPLOYMENT: deployment | {"status": healthy | status}}


def a_pod(name: str = "m-1", *, ready: bool = True, waiting: tuple[str, str] | None = None, **container: Any) -> Pod:
    """An engine pod. `waiting`: reason and message of its container; further container status fields as they are."""
    state: dict[str, Any] = {"waiting": {"reason": waiting[0], "message": waiting[1]}} if waiting else {"running": {}}
    return Pod.model_validate(
        {
            "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                "containerStatuses": [{"name": "engine", "ready": ready, "state": state} | container],
            },
        }
    )


def a_policy(
    *,
    speculators: tuple[dict[str, Any], ...] = (),
    candidates: tuple[dict[str, Any], ...] = (),
    pods: tuple[dict[str, Any], ...] = (),
) -> DraftPolicy:
    """A DraftPolicy at revision 3."""
    return DraftPolicy.model_validate(
        {
            "metadata": {"name": "m", "namespace": "ns"},
            "spec": {"revision": 3, "table": [], "speculators": list(speculators), "candidates": list(candidates)},
            "status": {"pods": list(pods)},
        }
    )
