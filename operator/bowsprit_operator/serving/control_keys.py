"""The ConfigMap with the cluster's public token keys, with which pods check the operator's token. Pure.

Pods re-read the mounted file, so that rotated keys arrive without a restart.
"""

from __future__ import annotations

from bowsprit_operator.resources import names
from bowsprit_operator.resources.kinds import CONFIG_MAP
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.serving.pod_parts import Manifest


def build(model: SpeculativeModel, platform: Platform) -> Manifest:
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": child_metadata(model, names.control_keys(model.name)),
        "data": {names.JWKS_KEY: platform.jwks},
    }
