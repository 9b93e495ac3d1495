"""Labels and annotations that the operator writes on children, and the selectors that find them again."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

MODEL = "bowsprit.dev/model"
DRAFTER = "bowsprit.dev/drafter"
APPLIED_HASH = "bowsprit.dev/applied-hash"
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "bowsprit"


class Component(StrEnum):
    """What a pod is for. Only engines are behind the Service."""

    ENGINE = "engine"
    TRAINING = "training"


def of_model(model_name: str) -> dict[str, str]:
    """On every child of a SpeculativeModel; also finds all of its pods."""
    return {MODEL: model_name}


def of_component(model_name: str, component: Component) -> dict[str, str]:
    """Selects the pods of one component. Part of immutable selectors: never change it."""
    return {MODEL: model_name, COMPONENT: component.value}


def on_child(model_name: str, component: Component = Component.ENGINE) -> dict[str, str]:
    """All labels of a child object."""
    return {
        NAME: f"bowsprit-{component.value}",
        INSTANCE: model_name,
        MANAGED_BY: MANAGER,
        **of_component(model_name, component),
    }


def selector(wanted: Mapping[str, str]) -> str:
    """As a label selector string, keys in order."""
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
