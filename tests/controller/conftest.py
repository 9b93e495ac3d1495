"""A namespace of one's own on the real API server; it is left behind, the whole control plane goes at the end."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio import client

from bowsprit_operator.world.cluster import connect
from cluster.driver import Cluster as ClusterUnderTest
from controller.lab import Lab

_numbers = itertools.count(1)


@pytest.fixture
async def lab(api_server: ClusterUnderTest) -> AsyncIterator[Lab]:
    async with connect(api_server.kubeconfig) as cluster:
        namespace = f"controller-{next(_numbers)}"
        await client.CoreV1Api(cluster.api).create_namespace({"metadata": {"name": namespace}})
        yield Lab(cluster=cluster, namespace=namespace, kubeconfig=api_server.kubeconfig)
