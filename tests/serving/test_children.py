"""What each child looks like: the command line, the mounts, who may reach what, and what rolls pods."""

import itertools
from typing import Any

import pytest

from bowsprit_operator.resources.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_ACCOUNT,
)
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving import command, deployment
from serving.objects import PLATFORM, TRAINED, a_model, converged

DRAFT_MODEL = {"speculation": {"drafters": [{"name": "small", "type": "Model", "uri": "pvc://drafts/s.gguf"}]}}


def template(model: SpeculativeModel) -> dict[str, Any]:
    """The pod template of a new Deployment."""
    found: dict[str, Any] = deployment.build(model, PLATFORM, None)["spec"]["template"]
    return found


def container(model: SpeculativeModel) -> dict[str, Any]:
    """The engine container of a new Deployment."""
    found: dict[str, Any] = template(model)["spec"]["containers"][0]
    return found


def option(arguments: list[str], flag: str) -> list[str]:
    """Every value of a flag."""
    return [value for name, value in itertools.pairwise(arguments) if name == flag]


@pytest.mark.parametrize(
    ("spec", "flag", "values"),
    [
        ({}, "--model", ["pvc://models/m.gguf"]),
        ({}, "--served-name", ["m"]),
        ({"model": {"uri": "file:///m", "servedName": "public"}}, "--served-name", ["public"]),
        ({}, "--dtype", ["auto"]),
        ({"model": {"uri": "file:///m", "dtype": "BFloat16"}}, "--dtype", ["bfloat16"]),
        ({}, "--max-model-len", []),
        ({"model": {"uri": "file:///m", "maxModelLen": 2048}}, "--max-model-len", ["2048"]),
        ({}, "--kv-cache-memory", ["2Gi"]),
        ({"engine": {"kvCacheMemory": "512Mi"}}, "--kv-cache-memory", ["512Mi"]),
        ({}, "--draft-tokens-max", ["8"]),
        ({"speculation": {"draftTokens": {"max": 12}}}, "--draft-tokens-max", ["12"]),
        ({}, "--speculation", ["auto"]),
        ({"speculation": {"mode": "Off"}}, "--speculation", ["off"]),
        ({"speculation": {"mode": "Fixed", "fixedDraftTokens": 4}}, "--speculation", ["4"]),
        ({}, "--drafter", ["suffix=Suffix"]),
        (TRAINED, "--drafter", ["ngram=NGram", "head=Head"]),
        (DRAFT_MODEL, "--drafter", ["small=Model:pvc://drafts/s.gguf"]),
        ({}, "--capture-uri", []),
        (TRAINED, "--capture-uri", ["file:///claims/data/ns/m/uid-m/capture"]),
        (TRAINED, "--capture-sample-rate", ["1"]),
        (TRAINED, "--capture-max-tokens", ["2000000"]),
        (TRAINED, "--capture-retention", ["168h"]),
        (TRAINED, "--capture-consent", ["all"]),
        (TRAINED | {"training": {"drafter": "head", "mode": "Off"}}, "--capture-uri", []),
    ],
)
def test_the_command_line_says_what_the_spec_says(spec: dict[str, Any], flag: str, values: list[str]) -> None:
    """Each field of the spec that engines execute becomes one flag."""
    assert option(command.serve(a_model(**spec)), flag) == values


def test_a_pinned_revision_is_not_in_the_pod_template() -> None:
    """Revisions are pushed to running pods: pinning one must not roll them."""
    pinned = TRAINED | {"speculation": {"drafters": [{"name": "head", "type": "Head", "revision": "m-head-7"}]}}
    unpinned = TRAINED | {"speculation": {"drafters": [{"name": "head", "type": "Head"}]}}
    assert template(a_model(**pinned)) == template(a_model(**unpinned))


@pytest.mark.parametrize(
    ("spec", "mounts"),
    [
        ({"model": {"uri": "file:///m"}}, {}),
        ({}, {"/claims/models": True}),
        (TRAINED, {"/claims/models": True, "/claims/data": False}),
        (TRAINED | {"storage": {"claimName": "models"}}, {"/claims/models": False}),
        (DRAFT_MODEL, {"/claims/models": True, "/claims/drafts": True}),
        (DRAFT_MODEL | {"model": {"uri": "pvc://drafts/m"}}, {"/claims/drafts": True}),
        (DRAFT_MODEL | {"storage": {"claimName": "drafts"}}, {"/claims/models": True, "/claims/drafts": False}),
    ],
)
def test_claims_are_mounted_at_their_name(spec: dict[str, Any], mounts: dict[str, bool]) -> None:
    """Claims of models read-only, storage writable, a claim that is both once."""
    claims = [mount for mount in container(a_model(**spec))["volumeMounts"] if mount["mountPath"].startswith("/claims")]
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in claims} == mounts


def test_pods_run_without_rights_and_without_a_token() -> None:
    """What the Pod Security level "restricted" asks for, and no ServiceAccount token."""
    pod = template(a_model())["spec"]
    security = pod["containers"][0]["securityContext"]
    assert (pod["automountServiceAccountToken"], pod["securityContext"]["runAsNonRoot"]) == (False, True)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_pods_know_whom_their_control_port_trusts() -> None:
    """The operator's ServiceAccount, and nobody that the user names."""
    mine = [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "HOME", "value": "/elsewhere"}]
    environment = {entry["name"]: entry.get("value") for entry in container(a_model(engine={"env": mine}))["env"]}
    assert environment["BOWSPRIT_CONTROL_SUBJECT"] == "system:serviceaccount:bowsprit-system:bowsprit-operator"
    assert environment["BOWSPRIT_CONTROL_ISSUER"] == "https://issuer"
    assert (environment["OMP_NUM_THREADS"], environment["HOME"]) == ("2", "/elsewhere")


@pytest.mark.parametrize(
    ("limits", "surge"),
    [
        ({}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"memory": "2Gi"}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"nvidia.com/gpu": 1}, {"maxSurge": 0, "maxUnavailable": 1}),
    ],
)
def test_a_rolling_update_never_needs_a_spare_gpu(limits: dict[str, Any], surge: dict[str, int]) -> None:
    """Without GPUs capacity never shrinks, with GPUs no more than there are is asked for."""
    manifest = deployment.build(a_model(engine={"resources": {"limits": limits}}), PLATFORM, None)
    assert manifest["spec"]["strategy"]["rollingUpdate"] == surge


def test_labels_of_the_controller_win_over_the_users() -> None:
    """Else a user could take pods out of their Service."""
    labels = template(a_model(engine={"podLabels": {"team": "a", "bowsprit.dev/model": "x"}}))["metadata"]["labels"]
    assert (labels["team"], labels["bowsprit.dev/model"]) == ("a", "m")


def test_only_the_operator_and_prometheus_reach_the_control_port() -> None:
    """The serving port is open to all."""
    serving, control = converged(a_model())[NETWORK_POLICY]["spec"]["ingress"]
    assert ("from" in serving, serving["ports"][0]["port"], control["ports"][0]["port"]) == (False, 8000, 8001)
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in control["from"]] == [
        "bowsprit-operator",
        "prometheus",
    ]


def test_the_service_finds_engines_and_not_training_pods() -> None:
    """Training pods have the model's label too."""
    spec = converged(a_model())[SERVICE]["spec"]
    assert spec["selector"] == {"bowsprit.dev/model": "m", "app.kubernetes.io/component": "engine"}
    assert [(port["name"], port["port"], port["targetPort"]) for port in spec["ports"]] == [("http", 80, "http")]


@pytest.mark.parametrize(
    "kind",
    [DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY, SERVICE_ACCOUNT, CONFIG_MAP],
    ids=lambda k: k.kind,
)
def test_every_child_belongs_to_its_model(kind: Any) -> None:
    """So that Kubernetes deletes it with the model."""
    (owner,) = converged(a_model())[kind]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("SpeculativeModel", "uid-m", True)
