"""Session fixtures: `api_server` (a control plane of one's own) and `cluster` (the whole node).

A control plane ends with the test process, however that ends. The node is shared with `make cluster`: found running,
it is left running.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.driver import Cluster, remove_dead
from cluster.plan import Part

MARKERS = {"api_server": "apiserver", "cluster": "e2e"}
CRDS = Path(__file__).parents[2] / "crds"
PLURALS = {
    "draftpolicy": "draftpolicies",
    "speculativemodel": "speculativemodels",
    "speculatorrevision": "speculatorrevisions",
    "speculatortraining": "speculatortrainings",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a fixture of these carries its marker, so that none is forgotten."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for fixture in fixtures & set(MARKERS):
            item.add_marker(MARKERS[fixture])


@pytest.fixture(scope="session")
def api_server() -> Iterator[Cluster]:
    """etcd and a real control plane, with the project's CRDs established; `kubeconfig` leads to it."""
    remove_dead("tests-")
    instance = Cluster(f"tests-{os.getpid()}", (Part.ETCD, Part.CONTROL_PLANE))
    try:
        instance.up(owner_pid=os.getpid())
        apply_crds(instance)
        yield instance
    finally:
        instance.down()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The single-node cluster named by BOWSPRIT_CLUSTER (bowsprit), up and Ready."""
    instance = Cluster(os.environ.get("BOWSPRIT_CLUSTER", "bowsprit"))
    was_up = instance.status().is_up
    instance.up()
    yield instance
    if not was_up:
        instance.down()


def apply_crds(instance: Cluster) -> None:
    """Apply crds/ and wait until the API server serves them."""
    instance.kubectl("apply", "--server-side", "-k", str(CRDS))
    names = [file.stem for file in sorted(CRDS.glob("*.yaml")) if file.stem != "kustomization"]
    for name in names:
        instance.kubectl("wait", "-f", str(CRDS / f"{name}.yaml"), "--for=condition=Established", "--timeout=30s")
        # Established precedes a ready storage: until then lists get 429, which kubectl waits out.
        instance.kubectl("get", "--raw", f"/apis/bowsprit.dev/v1alpha1/{PLURALS[name]}")
