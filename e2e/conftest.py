"""Fixtures of the end-to-end tests: one cluster, one installation, one model that most tests share, in one order.

The order is that of a user's first day, since each test costs minutes of real serving: what an earlier one leaves
(traffic, a trained revision) a later one uses. Each still says what it needs and waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.driver import Cluster
from installation import install_operator, prepare_namespace, remove_namespace, sample
from kube import Kube
from served_model import ServedModel

pytest_plugins = ["cluster.pytest_plugin"]

ORDER = (
    "test_cluster.py",
    "test_apply_to_answer.py",
    "test_bad_input.py",
    "test_adapting.py",
    "test_learning.py",
    "test_failed_runs.py",
    "test_faults.py",
    "test_deletion.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in ORDER, unknown ones first; tests of a file in the order they are written."""
    items.sort(key=lambda item: ORDER.index(Path(item.path).name) if Path(item.path).name in ORDER else -1)
    for item in items:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Cluster:
    """The operator runs, from the images of this checkout."""
    install_operator(cluster)
    return cluster


@pytest.fixture(scope="session")
def kube(installed: Cluster) -> Iterator[Kube]:
    """A namespace of this session with claims and the model's file; removed afterwards."""
    namespace = f"e2e-{os.getpid()}"
    yield prepare_namespace(installed, namespace)
    remove_namespace(installed, namespace)


@pytest.fixture(scope="session")
def smollm2(kube: Kube) -> ServedModel:
    """The CPU sample, applied and Ready. Its training starts only when a test asks (mode Manual)."""
    kube.apply(sample(kube.namespace, training__mode="Manual", training__budget__deadline="8m"))
    return ServedModel.when_ready(kube, "smollm2")
