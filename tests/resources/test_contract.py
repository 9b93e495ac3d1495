"""The CRDs and the typed values say the same: every field of one is a field of the other, and samples survive both."""

import json
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bowsprit_operator.resources.base import Resource
from bowsprit_operator.resources.draft_policy import DraftPolicy
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining

ROOT = Path(__file__).parents[2]
RESOURCES: dict[str, type[Resource]] = {
    "speculativemodel": SpeculativeModel,
    "draftpolicy": DraftPolicy,
    "speculatortraining": SpeculatorTraining,
    "speculatorrevision": SpeculatorRevision,
}
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
# Kubernetes' own structures: passed through as they are, so the schema alone knows their fields.
PASSED_THROUGH = (
    "spec.engine.resources",
    "spec.engine.tolerations",
    "spec.engine.env",
    "spec.training.resources",
    "spec.training.tolerations",
)


def schema_of(name: str) -> dict[str, Any]:
    """The OpenAPI schema of one CRD's only version."""
    document = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
    (version,) = document["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def schema_paths(schema: dict[str, Any], path: str = "") -> set[str]:
    """Every named field, as a dotted path."""
    node = schema.get("items", schema)
    found = set()
    for key, value in node.get("properties", {}).items():
        where = f"{path}.{key}".lstrip(".")
        found |= {where} | (set() if where in PASSED_THROUGH else schema_paths(value, where))
    return found


def model_paths(model: type[BaseModel], path: str = "") -> set[str]:
    """Every field of a typed value, by its name in the API."""
    found = set()
    for name, field in model.model_fields.items():
        where = f"{path}.{field.alias or name}".lstrip(".")
        found.add(where)
        for inner in models_in(field.annotation):
            found |= model_paths(inner, where)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The typed values inside an annotation such as `tuple[Condition, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        return [model for argument in typing.get_args(annotation) for model in models_in(argument)]
    return []


def strings_and_lists(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every string and list of a schema, with where it is."""
    found = [(path, schema)] if schema.get("type") in ("string", "array") else []
    for key, value in schema.get("properties", {}).items():
        if path or key in ("spec", "status"):
            found += strings_and_lists(value, f"{path}.{key}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += strings_and_lists(schema[key], f"{path}[]")
    return found


@pytest.mark.parametrize("name", RESOURCES)
def test_every_field_of_the_schema_is_a_field_of_the_typed_value_and_the_other_way_round(name: str) -> None:
    """A field that one of them lacks would be lost, or refused."""
    schema = {path for path in schema_paths(schema_of(name)) if path.startswith(("spec", "status"))}
    typed = {path for path in model_paths(RESOURCES[name]) if path.startswith(("spec", "status"))}
    assert typed == schema


@pytest.mark.parametrize("name", RESOURCES)
def test_every_string_and_list_has_a_limit(name: str) -> None:
    """Without limits the API server prices CEL rules by the worst case, and refuses the CRD."""
    unlimited = [
        path
        for path, node in strings_and_lists(schema_of(name))
        if not ({"maxLength", "enum", "format"} & node.keys() if node["type"] == "string" else "maxItems" in node)
    ]
    assert unlimited == []


@pytest.mark.parametrize("name", RESOURCES)
def test_every_part_of_a_spec_is_described(name: str) -> None:
    """kubectl explain has something to say about each object in spec."""
    spec = schema_of(name)["properties"]["spec"]
    undescribed = [key for key, value in spec["properties"].items() if not value.get("description")]
    assert undescribed == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_reads_the_same_after_it_was_written(sample: Path) -> None:
    """Reading loses nothing: what is written back reads as the same value."""
    model = SpeculativeModel.model_validate(yaml.safe_load(sample.read_text()))
    assert SpeculativeModel.model_validate(json.loads(json.dumps(model.manifest()))) == model


def test_fields_that_a_newer_version_added_are_ignored_when_reading() -> None:
    """Operators of neighbouring versions read each other's objects."""
    manifest = {
        "metadata": {"name": "m", "later": 1},
        "spec": {"model": {"uri": "file:///m", "later": {}}, "later": []},
    }
    assert SpeculativeModel.model_validate(manifest).spec.model.uri == "file:///m"
