"""The plan as a story: from nothing to everything in safe steps, then silence; each drift has its reason."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from bowsprit_operator.resources.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from bowsprit_operator.serving.deployment import DEFAULT_IMAGE
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Plan, next_step
from serving.objects import PLATFORM, a_model, converged

MODEL = a_model(engine={"resources": {"limits": {"cpu": "1000m"}}})


def plan_for(children: dict[Kind, dict[str, Any]], *, model: Any = MODEL, platform: Any = PLATFORM) -> Plan:
    return next_step(Observed(model=model, children=children), platform)


def edited(path: str, value: Any) -> dict[Kind, dict[str, Any]]:
    """Converged children, one field of one child changed (None: removed). `path` is "Kind field 0 field"."""
    children = copy.deepcopy(converged(MODEL))
    name, *keys = path.split()
    node: Any = next(child for kind, child in children.items() if kind.kind == name)
    for key in keys[:-1]:
        node = node[int(key)] if key.isdecimal() else node[key]
    last: Any = int(keys[-1]) if keys[-1].isdecimal() else keys[-1]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return children


def test_what_pods_need_comes_first_then_pods_then_who_finds_them() -> None:
    """A pod must not wait for its account or its keys."""
    children: dict[Kind, dict[str, Any]] = {}
    steps = []
    while (plan := plan_for(children)).actions:
        steps.append({action.kind for action in plan.actions})
        children |= {action.kind: action.manifest for action in plan.actions if hasattr(action, "manifest")}
    assert steps == [{SERVICE_ACCOUNT, CONFIG_MAP, NETWORK_POLICY}, {DEPLOYMENT}, {SERVICE, POD_DISRUPTION_BUDGET}]


def test_nothing_is_done_when_nothing_differs() -> None:
    """The level is right: no write, no reason."""
    assert plan_for(converged(MODEL)) == Plan()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("Deployment spec replicas", 5, "Deployment m: .spec.replicas is 5, wanted 1"),
        (
            "Deployment spec template spec containers 0 image",
            "mine:2",
            ".spec.template.spec.containers[engine].image is 'mine:2', wanted 'engine:1'",
        ),
        ("Deployment spec template spec containers 0 args 2", "x", "containers[engine].args[2] is 'x'"),
        ("Deployment spec template spec volumes", [], ".volumes[control-keys] is missing"),
        ("Service spec selector bowsprit.dev/model", "x", ".spec.selector.bowsprit.dev/model is 'x', wanted 'm'"),
        ("Service spec ports", [], "Service m: .spec.ports has 0 items, wanted 1"),
        ("NetworkPolicy spec ingress 1 from", [], ".spec.ingress[1].from has 0 items, wanted 2"),
        ("ConfigMap data jwks.json", "{}", "ConfigMap m-control-keys: .data.jwks.json is '{}'"),
        ("PodDisruptionBudget spec maxUnavailable", 3, ".spec.maxUnavailable is 3, wanted 1"),
        ("ServiceAccount automountServiceAccountToken", True, ".automountServiceAccountToken is True, wanted False"),
        ("Deployment metadata labels bowsprit.dev/model", None, "bowsprit.dev/model is None, wanted 'm'"),
    ],
)
def test_a_users_edit_of_a_child_is_repaired_with_its_reason(path: str, value: Any, reason: str) -> None:
    """Every field that we set is ours."""
    assert reason in plan_for(edited(path, value)).reason


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Deployment spec template spec containers 0 terminationMessagePath", "/dev/termination-log"),
        ("Deployment spec template spec containers 0 resources limits cpu", "1"),
        ("Deployment metadata labels team", "a"),
        ("Service spec clusterIP", "10.96.0.7"),
        ("Deployment status", {"replicas": 1}),
    ],
)
def test_what_others_add_and_the_server_rewrites_is_not_drift(path: str, value: Any) -> None:
    """Defaults, canonical quantities, injected labels: repairing them would never end."""
    assert plan_for(edited(path, value)) == Plan()


def test_a_sidecar_that_somebody_injected_stays() -> None:
    """Containers are merged by name."""
    children = copy.deepcopy(converged(MODEL))
    children[DEPLOYMENT]["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"})
    assert plan_for(children) == Plan()


def test_a_field_that_is_no_longer_wanted_is_dropped() -> None:
    """It is still a superset of what is wanted, so only the hash of the last apply can tell."""
    before = a_model(engine={"env": [{"name": "DEBUG", "value": "1"}]})
    assert "what is wanted has changed" in plan_for(converged(before), model=a_model()).reason


def test_a_new_default_image_does_not_roll_pods() -> None:
    """An operator's upgrade leaves running engines alone."""
    upgraded = replace(PLATFORM, engine_image="engine:2")
    assert plan_for(converged(MODEL), platform=upgraded) == Plan()


@pytest.mark.parametrize(
    ("before", "after", "image"),
    [
        ({}, {"image": "mine:1"}, "mine:1"),
        ({"image": "mine:1"}, {"image": "mine:2"}, "mine:2"),
        ({"image": "mine:1"}, {}, "engine:2"),
    ],
)
def test_a_change_of_the_specs_image_rolls_pods(before: dict[str, str], after: dict[str, str], image: str) -> None:
    """Taking the image out of the spec goes to today's default, not to what happened to run."""
    upgraded = replace(PLATFORM, engine_image="engine:2")
    children = converged(a_model(engine=before))
    (action,) = plan_for(children, model=a_model(engine=after), platform=upgraded).actions
    assert action.kind is DEPLOYMENT
    manifest = getattr(action, "manifest", {})
    assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_the_default_image_of_a_deployment_is_remembered_on_it() -> None:
    """In an annotation, so that an edit of the image itself is still seen as drift."""
    assert converged(MODEL)[DEPLOYMENT]["metadata"]["annotations"][DEFAULT_IMAGE] == "engine:1"


def test_an_object_of_somebody_else_is_not_taken_over() -> None:
    """The plan stops and says which one, and what to do."""
    foreign = {DEPLOYMENT: {"metadata": {"name": "m", "namespace": "ns"}, "spec": {}}}
    blocked = plan_for(foreign).blocked
    assert blocked is not None
    expected = "Deployment m exists and doesn't belong to this SpeculativeModel: delete it or choose another name"
    assert (blocked.reason, blocked.message) == ("ChildNotOurs", expected)


def test_a_model_on_its_way_out_is_left_alone() -> None:
    """Repairing children against the garbage collector would bring them back."""
    going = MODEL.model_copy(
        update={"metadata": MODEL.metadata.model_copy(update={"deletion_timestamp": "2026-11-24T12:00:00Z"})}
    )
    assert plan_for({}, model=going) == Plan()
