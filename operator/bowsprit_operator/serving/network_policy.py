"""The NetworkPolicy: anybody may ask the OpenAI port, only the operator and Prometheus reach the control port. Pure.

Egress is left open: what an engine may fetch is the cluster's own business.
"""

from __future__ import annotations

from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.kinds import NETWORK_POLICY
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.platform import OPERATOR_POD_NAME, Platform
from bowsprit_operator.serving.pod_parts import Manifest


def build(model: SpeculativeModel, platform: Platform) -> Manifest:
    """For engine pods and training pods alike."""
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": platform.operator_namespace}},
        "podSelector": {"matchLabels": {labels.NAME: OPERATOR_POD_NAME}},
    }
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {labels.NAME: "prometheus"}}}
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": child_metadata(model, names.network_policy(model.name)),
        "spec": {
            "podSelector": {"matchLabels": labels.of_model(model.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": names.SERVING_PORT, "protocol": "TCP"}]},
                {"from": [operator, prometheus], "ports": [{"port": names.CONTROL_PORT, "protocol": "TCP"}]},
            ],
        },
    }
