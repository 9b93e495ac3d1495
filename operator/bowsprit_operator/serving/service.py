"""The Service: the OpenAI API of all ready engines, at the model's name on port 80. Pure."""

from __future__ import annotations

from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.kinds import SERVICE
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.pod_parts import Manifest


def build(model: SpeculativeModel) -> Manifest:
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": child_metadata(model, names.service(model.name)),
        "spec": {
            "type": "ClusterIP",
            "selector": labels.of_component(model.name, labels.Component.ENGINE),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
        },
    }
