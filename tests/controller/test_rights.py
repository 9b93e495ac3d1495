"""manifests/ on a real API server: they apply, and the rights that they give are all that an operator needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.kinds import DRAFT_POLICY, SPECULATOR_REVISION, SPECULATOR_TRAINING
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision, SpeculatorRevisionStatus
from bowsprit_operator.world.cluster import RefusedError, connect
from cluster.driver import Cluster as ClusterUnderTest
from controller.lab import REVISION, Lab

pytestmark = pytest.mark.apiserver

MANIFESTS = Path(__file__).parents[2] / "manifests"
OPERATOR = "system:serviceaccount:bowsprit-system:bowsprit-operator"


@pytest.fixture
async def kubeconfig(api_server: ClusterUnderTest, tmp_path: Path) -> Path:
    """Of the operator's ServiceAccount, with the rights that manifests/ give it."""
    await asyncio.to_thread(api_server.kubectl, "apply", "--server-side", "-k", str(MANIFESTS))
    token = await asyncio.to_thread(api_server.kubectl, "create", "token", "bowsprit-operator", "-n", "bowsprit-system")
    administrator = yaml.safe_load(api_server.kubeconfig.read_text())
    administrator["users"][0]["user"] = {"token": token.strip()}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(administrator))
    return path


async def test_an_operator_with_no_other_rights_reconciles_everywhere(
    lab: Lab, kubeconfig: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Watches, Lease, children, statuses: nothing that it tries is forbidden."""
    everywhere = {"namespace": "bowsprit-system", "watch_namespaces": ()}
    async with lab.process("one", kubeconfig=kubeconfig, **everywhere) as process:
        await lab.apply("m")
        await lab.condition("m", ModelCondition.ENGINES_READY, reason="Unschedulable")
        process.terminate()
        code = await process.wait()
    complaints = [line for line in capfd.readouterr().err.splitlines() if "forbidden" in line.lower()]
    assert (code, complaints) == (0, [])


async def test_the_loops_may_write_their_own_kinds_and_delete_no_revision(lab: Lab, kubeconfig: Path) -> None:
    """A revision and its artifact outlive everything that the operator does."""
    async with connect(kubeconfig) as cluster:
        metadata = {"name": "m-head-1", "namespace": lab.namespace}
        await cluster.apply(DRAFT_POLICY, {"metadata": metadata, "spec": {"revision": 1}})
        await cluster.create(SPECULATOR_TRAINING, {"metadata": metadata, "spec": {"modelName": "m", "drafter": "head"}})
        stored = await cluster.create(SPECULATOR_REVISION, {"metadata": metadata, "spec": REVISION})
        revision = SpeculatorRevision.model_validate(stored)
        assert await cluster.apply_status(revision, SpeculatorRevisionStatus()) is False
        with pytest.raises(RefusedError, match="cannot delete resource"):
            await cluster.delete(SPECULATOR_REVISION, lab.namespace, "m-head-1")


async def test_the_operator_may_not_write_what_the_user_wants(lab: Lab, kubeconfig: Path) -> None:
    """Not by rights, and not only by good intentions."""
    await lab.apply("m")
    async with connect(kubeconfig) as cluster:
        manifest = {"metadata": {"name": "m", "namespace": lab.namespace}, "spec": {"model": {"uri": "file:///other"}}}
        with pytest.raises(RefusedError, match=f'User "{OPERATOR}" cannot patch resource "speculativemodels"'):
            await cluster.apply((await lab.model("m")).KIND, manifest)
