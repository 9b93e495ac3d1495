"""The PodDisruptionBudget: evictions take at most one engine at a time. Pure."""

from __future__ import annotations

from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.kinds import POD_DISRUPTION_BUDGET
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.pod_parts import Manifest


def build(model: SpeculativeModel) -> Manifest:
    return {
        "apiVersion": POD_DISRUPTION_BUDGET.api_version,
        "kind": POD_DISRUPTION_BUDGET.kind,
        "metadata": child_metadata(model, names.pod_disruption_budget(model.name)),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": labels.of_component(model.name, labels.Component.ENGINE)},
        },
    }
