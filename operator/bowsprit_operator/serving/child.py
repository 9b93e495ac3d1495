"""What every child carries: its labels, its owner, and how to tell that a stored object is a child of a model. Pure."""

from __future__ import annotations

from typing import Any

from bowsprit_operator.resources import labels
from bowsprit_operator.resources.speculative_model import SpeculativeModel


def child_metadata(model: SpeculativeModel, name: str) -> dict[str, Any]:
    """Fresh each time. The owner reference lets Kubernetes delete the child with the model."""
    return {
        "name": name,
        "namespace": model.namespace,
        "labels": labels.on_child(model.name),
        "ownerReferences": [model.owner_reference()],
    }


def is_ours(observed: dict[str, Any], model: SpeculativeModel) -> bool:
    """Whether this very model controls the object."""
    owners = observed.get("metadata", {}).get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == model.metadata.uid for owner in owners)
