"""Bad input: refused at once where the schema can tell, and told with path and cause where only the engine can."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from cluster.errors import ClusterError
from installation import MODEL_CLAIM, sample
from kube import Kube, condition, eventually, is_true

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model__uri": "https://example.org/model"}, "model.uri must begin with pvc:// or file:///"),
    ({"model__uri": "pvc://models"}, "a pvc:// uri must be pvc://CLAIM/PATH"),
    ({"model__uri": "pvc://models/../secret"}, "model.uri must not contain '..'"),
    ({"speculation__mode": "Fixed"}, "mode Fixed needs fixedDraftTokens"),
    ({"speculation__fixedDraftTokens": 4}, "fixedDraftTokens is obeyed only with mode Fixed"),
    (
        {"speculation__mode": "Fixed", "speculation__fixedDraftTokens": 9},
        "fixedDraftTokens must not exceed draftTokens.max",
    ),
    ({"speculation__draftTokens": {"min": 5, "max": 2}}, "draftTokens.min must not exceed draftTokens.max"),
    ({"training__drafter": "ngram"}, "training.drafter must name a drafter of type Head"),
    (
        {"speculation__drafters": [{"name": "head", "type": "Head"}, {"name": "n", "type": "NGram", "revision": "r"}]},
        "only a drafter of type Head has revisions",
    ),
    ({"promotion__minGain": "two"}, "must be a percentage"),
    ({"training__budget": {"deadline": "soon"}}, "must be a duration"),
    ({"engine__kvCacheMemory": "12Ki"}, "kvCacheMemory must be a quantity of at least 1Mi"),
    ({"engine__env": [{"name": "BOWSPRIT_CONTROL_SUBJECT", "value": "me"}]}, "are set by the controller"),
    ({"speculation__mode": "Sometimes"}, "Unsupported value"),
    ({"replica": 2}, "unknown field"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_wrong_spec_is_refused_with_its_message(kube: Kube, changes: dict[str, Any], message: str) -> None:
    """The API server says what is wrong, before anything runs."""
    with pytest.raises(ClusterError) as refused:
        kube.apply(sample(kube.namespace, name="wrong", **changes))
    assert message in str(refused.value)


def test_a_name_too_long_for_its_speculators_is_refused(kube: Kube) -> None:
    """Revisions are named <model>-<drafter>-<n>, within Kubernetes' 63 characters."""
    with pytest.raises(ClusterError, match="at most 40 characters"):
        kube.apply(sample(kube.namespace, name="a" * 41))


def test_a_revision_never_changes(kube: Kube) -> None:
    """What was evaluated is what serves: the spec of a SpeculatorRevision is immutable."""
    revision: dict[str, Any] = {
        "apiVersion": "bowsprit.dev/v1alpha1",
        "kind": "SpeculatorRevision",
        "metadata": {"name": "nobodys-head-1", "namespace": kube.namespace},
        "spec": {
            "modelName": "nobodys",
            "drafter": "head",
            "number": 1,
            "modelDigest": "a" * 64,
            "artifact": {"uri": "file:///claims/x/y", "sha256": "b" * 64, "bytes": 1},
        },
    }
    kube.apply(revision)
    revision["spec"]["number"] = 2
    with pytest.raises(ClusterError, match="immutable"):
        kube.apply(revision)
    kube.delete("srev", "nobodys-head-1")


def is_stalled(kube: Kube, name: str) -> bool:
    return is_true(kube.get("smodel", name), "Stalled")


async def test_a_missing_or_corrupt_model_stalls_with_path_and_cause(kube: Kube) -> None:
    """Ready never comes; Stalled says which file and what is wrong with it."""
    broken = kube.cluster.places.volumes / kube.namespace / MODEL_CLAIM / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    broken.chmod(0o644)
    wanted = {"absent": "absent.gguf", "corrupt": "broken.gguf"}
    for name, file in wanted.items():
        kube.apply(sample(kube.namespace, name=name, model__uri=f"pvc://{MODEL_CLAIM}/{file}", engine__resources={}))
    for name, file in wanted.items():
        await eventually(partial(is_stalled, kube, name), seconds=120, what=f"Stalled of {name}")
        found = kube.read("smodel", name)
        stalled, ready = condition(found, "Stalled"), condition(found, "Ready")
        assert f"{MODEL_CLAIM}/{file}" in stalled["message"]
        assert (stalled["reason"], ready["status"]) == ("EngineCrashing", "False")
    for name in wanted:
        kube.delete("smodel", name)
