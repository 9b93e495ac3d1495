"""The next safe step towards what a model's spec wants. Pure: values in, actions with reasons out.

First what pods need in order to start (account, keys, network policy), then the pods, then who finds them. One step a
pass: a restart between two steps is fine, the next pass sees what is there. Refuses to touch objects of others.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_operator.resources import names
from bowsprit_operator.resources.actions import Action, Apply
from bowsprit_operator.resources.conditions import ModelReason
from bowsprit_operator.resources.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from bowsprit_operator.serving import (
    child,
    control_keys,
    deployment,
    drift,
    network_policy,
    pod_disruption_budget,
    service,
    service_account,
)
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.serving.pod_parts import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why nothing can be done until the user acts."""

    reason: ModelReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`actions` empty and `blocked` None: everything is as it should be."""

    actions: tuple[Action, ...] = ()
    blocked: Blocked | None = None

    @property
    def reason(self) -> str:
        """For the log: what is done and why, in one line."""
        return "; ".join(action.reason for action in self.actions)


def child_names(model_name: str) -> dict[Kind, str]:
    """Every child that a model has, by kind."""
    return {
        SERVICE_ACCOUNT: names.service_account(model_name),
        CONFIG_MAP: names.control_keys(model_name),
        NETWORK_POLICY: names.network_policy(model_name),
        DEPLOYMENT: names.deployment(model_name),
        SERVICE: names.service(model_name),
        POD_DISRUPTION_BUDGET: names.pod_disruption_budget(model_name),
    }


def next_step(observed: Observed, platform: Platform) -> Plan:
    """One step, or none when nothing differs, or why none is possible."""
    model = observed.model
    if model.metadata.deletion_timestamp is not None:
        return Plan()  # Kubernetes deletes the children by their owner references
    foreign = [kind for kind, stored in observed.children.items() if not child.is_ours(stored, model)]
    if foreign:
        taken = ", ".join(f"{kind.kind} {child_names(model.name)[kind]}" for kind in foreign)
        message = f"{taken} exists and doesn't belong to this SpeculativeModel: delete it or choose another name"
        return Plan(blocked=Blocked(reason=ModelReason.CHILD_NOT_OURS, message=message))
    for stage in _stages(observed, platform):
        actions = tuple(_repairs(stage, observed))
        if actions:
            return Plan(actions=actions)
    return Plan()


def _stages(observed: Observed, platform: Platform) -> tuple[dict[Kind, Manifest], ...]:
    model = observed.model
    before_pods = {
        SERVICE_ACCOUNT: service_account.build(model),
        CONFIG_MAP: control_keys.build(model, platform),
        NETWORK_POLICY: network_policy.build(model, platform),
    }
    pods = {DEPLOYMENT: deployment.build(model, platform, observed.children.get(DEPLOYMENT))}
    around_pods = {
        SERVICE: service.build(model),
        POD_DISRUPTION_BUDGET: pod_disruption_budget.build(model),
    }
    return before_pods, pods, around_pods


def _repairs(stage: dict[Kind, Manifest], observed: Observed) -> list[Action]:
    actions: list[Action] = []
    for kind, manifest in stage.items():
        wanted = drift.stamped(manifest)
        found = drift.difference(wanted, observed.children.get(kind))
        if found is not None:
            reason = f"apply {kind.kind} {manifest['metadata']['name']}: {found}"
            actions.append(Apply(kind=kind, manifest=wanted, reason=reason))
    return actions
