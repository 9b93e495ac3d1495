"""Volumes of one node: a `local` PersistentVolume per claim, bound at once. hostPath ones would ignore fsGroup."""

from pathlib import Path

STORAGE_CLASS: dict[str, object] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "local"},
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "WaitForFirstConsumer",
}


def volume_objects(*, name: str, namespace: str, size: str, folder: Path, node: str) -> dict[str, object]:
    """A List of the volume and the claim that it is reserved for."""
    modes = ["ReadWriteOnce", "ReadWriteMany"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": modes,
            "storageClassName": "local",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": modes,
            "storageClassName": "local",
            "volumeName": f"{namespace}-{name}",
            "resources": {"requests": {"storage": size}},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [volume, claim]}
