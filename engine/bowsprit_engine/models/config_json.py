"""Reading a model's JSON files: an object or an error that names the file, and an integer or one that names the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowsprit_engine.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ModelError for a missing, unreadable or other kind of file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file", reason="ModelNotFound") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}", reason="CorruptModel") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a {type(value).__name__}, expected an object", reason="CorruptModel")
    return value


def refused(path: Path, key: str, value: object) -> ModelError:
    """To be raised for a key that would change the arithmetic."""
    return ModelError(f"{path}: {key}={value!r} is not supported", reason="UnsupportedModel")


def integer(path: Path, raw: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    """Absent and null are the default. Raises ModelError for anything else that is no integer."""
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelError(f"{path}: {key} is {value!r}, expected an integer", reason="UnsupportedModel")
    return value
