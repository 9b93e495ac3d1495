"""What engine pods and training pods have in common: security, claims, cache, and whom the control port trusts.

Pure. Each call returns fresh dicts, since a shared one would leak from one child into another. Refuses to know what a
pod runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bowsprit_operator.resources import names
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving.platform import Platform

USER_ID = 65532

ENGINE_AUDIENCE = "bowsprit-engine"
CONTROL_FOLDER = "/etc/bowsprit/control"
CACHE_FOLDER = "/var/cache/bowsprit"

Manifest = dict[str, Any]


def pod_security() -> Manifest:
    """Pod Security level "restricted"; the group owns what the pods write on claims."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """One PersistentVolumeClaim of a pod. `volume`: the name of its volume."""

    volume: str
    name: str
    is_written: bool


def volumes(model: SpeculativeModel) -> list[Manifest]:
    """Control keys, scratch space, and every claim that the spec names."""
    return [
        {"name": "control-keys", "configMap": {"name": names.control_keys(model.name)}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        *({"name": claim.volume, "persistentVolumeClaim": {"claimName": claim.name}} for claim in _claims(model)),
    ]


def volume_mounts(model: SpeculativeModel) -> list[Manifest]:
    """Claims are at /claims/<claim>, where the engine resolves pvc://."""
    mounts: list[Manifest] = [
        {"name": "control-keys", "mountPath": CONTROL_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": CACHE_FOLDER},
    ]
    for claim in _claims(model):
        mount: Manifest = {"name": claim.volume, "mountPath": f"{names.CLAIMS_FOLDER}/{claim.name}"}
        mounts.append(mount if claim.is_written else mount | {"readOnly": True})
    return mounts


def environment(model: SpeculativeModel, platform: Platform) -> list[Manifest]:
    """Who the pod is and where it may write, then the user's own variables, then whom its control port trusts."""
    trust = {
        "BOWSPRIT_CONTROL_JWKS_FILE": f"{CONTROL_FOLDER}/{names.JWKS_KEY}",
        "BOWSPRIT_CONTROL_ISSUER": platform.issuer,
        "BOWSPRIT_CONTROL_AUDIENCE": ENGINE_AUDIENCE,
        "BOWSPRIT_CONTROL_SUBJECT": platform.subject,
    }
    variables: dict[str, Manifest] = {
        "POD_NAME": _field("metadata.name"),
        "POD_UID": _field("metadata.uid"),
        "POD_NAMESPACE": _field("metadata.namespace"),
        "HOME": {"value": "/tmp"},
        "BOWSPRIT_CACHE_DIR": {"value": CACHE_FOLDER},
    }
    variables |= {
        str(entry["name"]): {key: value for key, value in entry.items() if key != "name"}
        for entry in model.spec.engine.env
    }
    variables |= {name: {"value": value} for name, value in trust.items()}
    return [{"name": name, **value} for name, value in variables.items()]


def _field(path: str) -> Manifest:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def _claims(model: SpeculativeModel) -> tuple[_Claim, ...]:
    """Every claim once: those of the model and of draft models are only read, unless one is storage too."""
    storage = model.spec.storage.claim_name if model.spec.storage else None
    read = {"model": model.spec.model.uri}
    read |= {f"draft-{drafter.name}": drafter.uri for drafter in model.spec.speculation.drafters if drafter.uri}
    claims: list[_Claim] = []
    for volume, uri in read.items():
        name = names.claim_of(uri)
        if name is not None and name not in {storage, *(claim.name for claim in claims)}:
            claims.append(_Claim(volume=volume, name=name, is_written=False))
    if storage is not None:
        claims.append(_Claim(volume="storage", name=storage, is_written=True))
    return tuple(claims)
