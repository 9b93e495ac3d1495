"""Bad input, refused by the real API server with words that say what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.driver import Cluster as ClusterUnderTest
from controller.lab import REVISION, sample

pytestmark = pytest.mark.apiserver

CLAIMS = Path(__file__).parents[2] / "manifests" / "claims.yaml"
HEAD = {"name": "head", "type": "Head"}
NGRAM = {"name": "ngram", "type": "NGram"}
URI = {"uri": "file:///m"}


def manifest(kind: str, spec: dict[str, Any], name: str = "m") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "bowsprit.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def complaint(api_server: ClusterUnderTest, resource: dict[str, Any], verb: str = "create") -> str:
    """What the API server says about an object that is created or replaced (nothing is stored)."""
    return api_server.kubectl(verb, "--dry-run=server", "-f", "-", input=json.dumps(resource), check=False)


@pytest.mark.parametrize("name", ["smallest", "cpu-smollm2", "gpu"])
def test_every_sample_is_accepted(api_server: ClusterUnderTest, name: str) -> None:
    """By the schema and by every rule."""
    found = sample(name)
    found["metadata"]["namespace"] = "default"
    expected = f"speculativemodel.bowsprit.dev/{found['metadata']['name']} created (server dry run)"
    assert complaint(api_server, found).strip() == expected


def test_the_samples_claims_are_accepted_under_pod_security_restricted(api_server: ClusterUnderTest) -> None:
    """In a namespace as strict as those that the operator's pods are made for."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": strict}}
    api_server.kubectl("create", "-f", "-", input=json.dumps(namespace))
    said = api_server.kubectl("create", "--dry-run=server", "--namespace", "strict", "-f", str(CLAIMS), check=False)
    names = ["persistentvolumeclaim/models", "persistentvolumeclaim/bowsprit-data", "pod/claims"]
    assert said.splitlines() == [f"{name} created (server dry run)" for name in names]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "spec.model: Required value"),
        ({"model": {"uri": "hf://org/name"}}, "model.uri must begin with pvc:// or file:///"),
        ({"model": {"uri": "s3://bucket/m"}}, "model.uri must begin with pvc:// or file:///"),
        ({"model": {"uri": "pvc://models"}}, "a pvc:// uri must be pvc://CLAIM/PATH"),
        ({"model": {"uri": "pvc://models/../../etc"}}, "model.uri must not contain '..'"),
        ({"model": URI, "engine": {"kvCacheMemory": "lots"}}, "kvCacheMemory must be a quantity of at least 1Mi"),
        ({"model": URI, "engine": {"kvCacheMemory": "1k"}}, "kvCacheMemory must be a quantity of at least 1Mi"),
        (
            {"model": URI, "engine": {"env": [{"name": "BOWSPRIT_CONTROL_ISSUER", "value": "me"}]}},
            "environment variables that begin with BOWSPRIT_CONTROL_ are set by the controller",
        ),
        (
            {
                "model": URI,
                "engine": {
                    "env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
                },
            },
            "an environment variable takes value or valueFrom, not both",
        ),
        (
            {"model": URI, "speculation": {"fixedDraftTokens": 4}},
            "fixedDraftTokens is obeyed only with mode Fixed",
        ),
        (
            {"model": URI, "speculation": {"mode": "Auto", "fixedDraftTokens": 4}},
            "fixedDraftTokens is obeyed only with mode Fixed",
        ),
        ({"model": URI, "speculation": {"mode": "Fixed"}}, "mode Fixed needs fixedDraftTokens"),
        (
            {"model": URI, "speculation": {"mode": "Fixed", "fixedDraftTokens": 9, "draftTokens": {"max": 8}}},
            "fixedDraftTokens must not exceed draftTokens.max",
        ),
        (
            {"model": URI, "speculation": {"draftTokens": {"min": 5, "max": 4}}},
            "draftTokens.min must not exceed draftTokens.max",
        ),
        ({"model": URI, "speculation": {"drafters": [NGRAM, NGRAM]}}, 'Duplicate value: {"name":"ngram"}'),
        ({"model": URI, "speculation": {"drafters": []}}, "should have at least 1 items"),
        (
            {"model": URI, "speculation": {"drafters": [NGRAM | {"revision": "r"}]}},
            "only a drafter of type Head has revisions",
        ),
        (
            {"model": URI, "speculation": {"drafters": [{"name": "small", "type": "Model"}]}},
            "a drafter of type Model, and no other, needs a uri",
        ),
        (
            {"model": URI, "speculation": {"drafters": [NGRAM | {"uri": "file:///m"}]}},
            "a drafter of type Model, and no other, needs a uri",
        ),
        (
            {"model": URI, "speculation": {"drafters": [{"name": "small", "type": "Model", "uri": "hf://org/name"}]}},
            "a drafter's uri must begin with pvc:// or file:///",
        ),
        (
            {"model": URI, "speculation": {"drafters": [{"name": "small", "type": "Model", "uri": "pvc://m/../x"}]}},
            "a drafter's uri must not contain '..'",
        ),
        (
            {"model": URI, "speculation": {"drafters": [{"name": "N_gram", "type": "NGram"}]}},
            "a drafter's name must be lower case letters, digits and '-', and begin with a letter",
        ),
        ({"model": URI, "speculation": {"drafters": [{"name": "s", "type": "Tree"}]}}, 'Unsupported value: "Tree"'),
        (
            {"model": URI, "speculation": {"drafters": [{"name": "s", "type": "Suffix", "revision": "r"}]}},
            "only a drafter of type Head has revisions",
        ),
        (
            {
                "model": URI,
                "storage": {"claimName": "d"},
                "speculation": {"drafters": [{"name": "s", "type": "Suffix"}]},
                "training": {"drafter": "s"},
            },
            "training.drafter must name a drafter of type Head in speculation.drafters",
        ),
        (
            {"model": URI, "speculation": {"drafters": [{"name": f"n{n}", "type": "NGram"} for n in range(9)]}},
            "must have at most 8 items",
        ),
        (
            {"model": URI, "storage": {"claimName": "d"}, "training": {"drafter": "head"}},
            "training.drafter must name a drafter of type Head in speculation.drafters",
        ),
        (
            {
                "model": URI,
                "storage": {"claimName": "d"},
                "speculation": {"drafters": [NGRAM]},
                "training": {"drafter": "ngram"},
            },
            "training.drafter must name a drafter of type Head in speculation.drafters",
        ),
        (
            {"model": URI, "speculation": {"drafters": [HEAD]}, "training": {"drafter": "head"}},
            "training needs storage.claimName, where captured traffic and speculators are kept (or mode Off)",
        ),
        (
            {"model": URI, "training": {"drafter": "head", "capture": {"sampleRate": "150%"}}},
            'must be a percentage between "0%" and "100%", such as "5%"',
        ),
        (
            {"model": URI, "training": {"drafter": "head", "capture": {"maxTokens": "-1"}}},
            "must be a quantity above 0, such as 50k or 2M",
        ),
        (
            {"model": URI, "training": {"drafter": "head", "budget": {"deadline": "1d"}}},
            "must be a duration such as 15s, 30m or 1h30m",
        ),
        ({"model": URI, "promotion": {"minGain": "2"}}, 'must be a percentage between "0%" and "100%"'),
        ({"model": URI, "promotion": {"shadow": "soon"}}, "must be a duration such as 15s, 30m or 1h30m"),
        ({"model": URI, "storage": {"claimName": "d", "onDelete": "Delete"}}, 'Unsupported value: "Delete"'),
        ({"model": URI, "replicas": -1}, "should be greater than or equal to 0"),
        ({"model": URI, "scaling": {"maxReplicas": 2}}, 'unknown field "spec.scaling"'),
    ],
)
def test_a_bad_spec_is_refused_with_its_message(
    api_server: ClusterUnderTest, spec: dict[str, Any], message: str
) -> None:
    """Each rule says what is wrong in the user's words."""
    assert message in complaint(api_server, manifest("SpeculativeModel", spec)).replace('\\"', '"')


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m" * 41, "metadata.name must be at most 40 characters, since speculators are named <model>-<drafter>-<n>"),
        ("0m", "metadata.name must be lower case letters, digits and '-', and begin with a letter"),
        ("a.b", "metadata.name must be lower case letters, digits and '-', and begin with a letter"),
    ],
)
def test_a_bad_name_is_refused(api_server: ClusterUnderTest, name: str, message: str) -> None:
    """The name becomes a Service, a label and part of revision names."""
    assert message in complaint(api_server, manifest("SpeculativeModel", {"model": URI}, name=name))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"maxBatchSize": 4}], "the last row of the table must be unbounded (no maxBatchSize)"),
        ([{}, {}], "only the last row of the table may be unbounded"),
    ],
)
def test_a_table_without_a_last_row_is_refused(
    api_server: ClusterUnderTest, table: list[dict[str, int]], message: str
) -> None:
    """Every batch size finds a row."""
    assert message in complaint(api_server, manifest("DraftPolicy", {"revision": 1, "table": table}))


@pytest.mark.parametrize(
    ("kind", "spec", "change", "message"),
    [
        ("SpeculatorRevision", REVISION, {"number": 2}, "the spec of a SpeculatorRevision is immutable"),
        (
            "SpeculatorTraining",
            {"modelName": "m", "drafter": "head"},
            {"drafter": "other"},
            "the spec of a SpeculatorTraining is immutable, create another one",
        ),
    ],
)
def test_what_was_trained_and_what_is_to_be_trained_never_changes(
    api_server: ClusterUnderTest, kind: str, spec: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """A revision that git pins is the one that was evaluated."""
    stored = manifest(kind, spec, name="immutable")
    api_server.kubectl("create", "-f", "-", input=json.dumps(stored))
    changed = copy.deepcopy(stored)
    changed["spec"] |= change
    assert message in complaint(api_server, changed, verb="replace")


def test_kubectl_explain_tells_what_a_field_does(api_server: ClusterUnderTest) -> None:
    """The schema's descriptions are the reference that users have at hand."""
    text = " ".join(api_server.kubectl("explain", "smodel.spec.speculation").split())
    assert "How to speculate. Output never depends on any of it, only speed does." in text
    assert "the controller chooses draft lengths from measurements" in text
    types = " ".join(api_server.kubectl("explain", "smodel.spec.speculation.drafters.type").split())
    assert "Suffix - also in recent answers of the same tenant" in types
