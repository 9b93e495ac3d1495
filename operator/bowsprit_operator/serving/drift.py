"""Does a stored object still say what we want? Pure: the first difference as words, None when there is none.

A wanted manifest is a subset: fields that others or the API server added are not drift. What we no longer want is seen
by the hash of the last applied manifest, an annotation (without it a dropped field would stay for ever).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from bowsprit_operator.resources import labels

# Lists that the API server merges by key; other lists are compared as a whole.
_KEYS = {
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
}
_QUANTITIES = {"limits", "requests"}


def stamped(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own hash as an annotation: what is applied."""
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = dict(metadata.get("annotations") or {}) | {labels.APPLIED_HASH: _hash(manifest)}
    return dict(manifest) | {"metadata": metadata}


def difference(wanted: Mapping[str, Any], observed: Mapping[str, Any] | None) -> str | None:
    """`wanted`: a stamped manifest. `observed`: the stored object, None when there is none."""
    if observed is None:
        return "it doesn't exist"
    contents = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind", "metadata")}
    found = _differs(contents, observed, "")
    if found is not None:
        return found
    metadata, stored = wanted["metadata"], observed.get("metadata", {})
    found = _differs({key: metadata[key] for key in ("labels", "ownerReferences")}, stored, ".metadata")
    if found is not None:
        return found
    ours = (stored.get("annotations") or {}).get(labels.APPLIED_HASH)
    return None if ours == metadata["annotations"][labels.APPLIED_HASH] else "what is wanted has changed"


def _hash(manifest: Mapping[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _differs(wanted: Any, observed: Any, path: str) -> str | None:
    if isinstance(wanted, Mapping):
        return _mapping_differs(wanted, observed, path)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _list_differs(wanted, observed, path)
    return None if wanted == observed else f"{path} is {observed!r}, wanted {wanted!r}"


def _mapping_differs(wanted: Mapping[str, Any], observed: Any, path: str) -> str | None:
    if not isinstance(observed, Mapping):
        # The API server drops empty values of optional fields.
        return None if not wanted and observed is None else f"{path} is missing"
    for key, value in wanted.items():
        where = f"{path}.{key}"
        if key in _QUANTITIES and isinstance(value, Mapping):
            found = _quantities_differ(value, observed.get(key) or {}, where)
        elif key in _KEYS and isinstance(value, Sequence):
            found = _keyed_list_differs(value, observed.get(key) or (), where, _KEYS[key])
        else:
            found = _differs(value, observed.get(key), where)
        if found is not None:
            return found
    return None


def _list_differs(wanted: Sequence[Any], observed: Any, path: str) -> str | None:
    found = observed if isinstance(observed, Sequence) and not isinstance(observed, str) else ()
    if len(wanted) != len(found):
        return f"{path} has {len(found)} items, wanted {len(wanted)}"
    pairs = enumerate(zip(wanted, found, strict=True))
    return next((text for i, (a, b) in pairs if (text := _differs(a, b, f"{path}[{i}]"))), None)


def _keyed_list_differs(wanted: Sequence[Any], observed: Sequence[Any], path: str, key: str) -> str | None:
    stored = {item.get(key): item for item in observed if isinstance(item, Mapping)}
    for item in wanted:
        where = f"{path}[{item[key]}]"
        if item[key] not in stored:
            return f"{where} is missing"
        found = _differs(item, stored[item[key]], where)
        if found is not None:
            return found
    return None


def _quantities_differ(wanted: Mapping[str, Any], observed: Mapping[str, Any], path: str) -> str | None:
    for key, value in wanted.items():
        stored = observed.get(key)
        if stored is None or parse_quantity(stored) != parse_quantity(value):
            return f"{path}.{key} is {stored!r}, wanted {value!r}"
    return None
