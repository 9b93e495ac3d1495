"""Session fixtures: `api_server` (a control plane of one's own, for tests/) and `cluster` (the whole node, for e2e/).

A control plane ends with the test process, however that ends. The node is shared with `make cluster`: found running, it is left running.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.driver import Cluster, remove_dead
from cluster.plan import Part

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def api_server() -> Iterator[Cluster]:
    """etcd and a real control plane, with the project's CRDs established; `kubeconfig` leads to it."""
    remove_dead("tests-")
    instance = Cluster(f"tests-{os.getpid()}", (Part.ETCD, Part.CONTROL_PLANE))
    instance.up(owner_pid=os.getpid())
    apply_crds(instance)
    yield instance
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
    files = sorted((ROOT / "crds").glob("*.yaml"))
    if not files:
        return
    instance.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    for file in files:
        instance.kubectl("wait", "-f", str(file), "--for=condition=Established", "--timeout=30s")
