"""The ServiceAccount of engine and training pods: no rights, and no token is mounted. Pure."""

from __future__ import annotations

from bowsprit_operator.resources import names
from bowsprit_operator.resources.kinds import SERVICE_ACCOUNT
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.pod_parts import Manifest


def build(model: SpeculativeModel) -> Manifest:
    return {
        "apiVersion": SERVICE_ACCOUNT.api_version,
        "kind": SERVICE_ACCOUNT.kind,
        "metadata": child_metadata(model, names.service_account(model.name)),
        "automountServiceAccountToken": False,
    }
