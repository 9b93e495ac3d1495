"""The kinds of objects that the operator reads or writes, ours and Kubernetes' own. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Where a kind of object is in the API. All of them are namespaced."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def _ours(kind: str, plural: str) -> Kind:
    return Kind(group="bowsprit.dev", version="v1alpha1", kind=kind, plural=plural)


SPECULATIVE_MODEL = _ours("SpeculativeModel", "speculativemodels")
DRAFT_POLICY = _ours("DraftPolicy", "draftpolicies")
SPECULATOR_TRAINING = _ours("SpeculatorTraining", "speculatortrainings")
SPECULATOR_REVISION = _ours("SpeculatorRevision", "speculatorrevisions")

POD = Kind(group="", version="v1", kind="Pod", plural="pods")
SERVICE = Kind(group="", version="v1", kind="Service", plural="services")
SERVICE_ACCOUNT = Kind(group="", version="v1", kind="ServiceAccount", plural="serviceaccounts")
CONFIG_MAP = Kind(group="", version="v1", kind="ConfigMap", plural="configmaps")
CLAIM = Kind(group="", version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims")
DEPLOYMENT = Kind(group="apps", version="v1", kind="Deployment", plural="deployments")
JOB = Kind(group="batch", version="v1", kind="Job", plural="jobs")
POD_DISRUPTION_BUDGET = Kind(group="policy", version="v1", kind="PodDisruptionBudget", plural="poddisruptionbudgets")
NETWORK_POLICY = Kind(group="networking.k8s.io", version="v1", kind="NetworkPolicy", plural="networkpolicies")
EVENT = Kind(group="events.k8s.io", version="v1", kind="Event", plural="events")
LEASE = Kind(group="coordination.k8s.io", version="v1", kind="Lease", plural="leases")
