"""A namespace of one's own on the real API server, with models and engine pods that are fakes on loopback."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio import client

from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.world.cluster import Cluster, connect
from cluster.driver import Cluster as ClusterUnderTest
from loops.world import World

_NAMESPACE = Kind(group="", version="v1", kind="Namespace", plural="namespaces")
_numbers = itertools.count(1)


@pytest.fixture
async def kubernetes(api_server: ClusterUnderTest) -> AsyncIterator[Cluster]:
    async with connect(api_server.kubeconfig) as cluster:
        yield cluster


@pytest.fixture
async def world(kubernetes: Cluster) -> AsyncIterator[World]:
    """The namespace is left behind: the whole control plane goes at the end of the session."""
    core = client.CoreV1Api(kubernetes.api)
    namespace = f"loops-{next(_numbers)}"
    await core.create_namespace({"metadata": {"name": namespace}})
    await core.create_namespaced_service_account(namespace, {"metadata": {"name": "fake"}})
    world = World(cluster=kubernetes, core=core, namespace=namespace)
    async with world:
        yield world
