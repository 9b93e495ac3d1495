"""Deleting a SpeculativeModel leaves its revisions and artifacts alone, and so does a new one of its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from installation import data_folder, sample
from kube import Kube, eventually
from served_model import ServedModel

KINDS = "deployments,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies,jobs,pods,dpol,strain"


def contents(folder: Path) -> dict[str, str]:
    """sha256 by path of every file below."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def test_only_revisions_and_artifacts_outlive_their_model(smollm2: ServedModel, kube: Kube) -> None:
    """Owner references take everything else along."""
    uid = smollm2.resource["metadata"]["uid"]
    speculators = data_folder(kube.cluster, kube.namespace) / kube.namespace / smollm2.name / uid / "speculators"
    before = contents(speculators)
    revisions = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in kube.list("srev")}
    by_hand = {run["metadata"]["name"] for run in kube.list("strain") if not run["metadata"].get("ownerReferences")}
    for name in by_hand:
        kube.delete("strain", name)
    kube.delete("smodel", smollm2.name, "--wait=true")
    await eventually(
        lambda: not kube.list(KINDS, labels=f"bowsprit.dev/model={smollm2.name}"), seconds=120, what="nothing"
    )
    assert before != {}
    assert contents(speculators) == before

    kube.apply(sample(kube.namespace, training__mode="Manual"))
    again = ServedModel.when_ready(kube, smollm2.name)
    await eventually(again.has_everybody_acknowledged, seconds=60, what="acknowledgements")
    after = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in kube.list("srev")}
    assert (contents(speculators), after) == (before, revisions)
    assert again.resource["metadata"]["uid"] != uid
    kube.delete("smodel", smollm2.name)
