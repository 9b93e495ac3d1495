"""The key-value section of a GGUF file, with errors that name the key. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from bowsprit_engine.errors import ModelError


class Metadata:
    """Values by key. `path` is the file, for messages."""

    def __init__(self, path: Path, reader: GGUFReader) -> None:
        self.path = path
        self._fields = reader.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def get(self, key: str) -> Any | None:
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self.path}: metadata key {key} is missing", reason="CorruptModel")
        return value

    def integer(self, key: str, *, default: int | None = None) -> int:
        """Raises ModelError for a key that is missing without a default, and for one value per layer."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(self.need(key), bool | int):
            return int(self.need(key))
        raise self.refuse(key, value)

    def decimal(self, key: str, *, default: float | None = None) -> float:
        """What was written before it became float32: 1e-05 for 9.999999747378752e-06."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        return float(str(np.float32(self.need(key))))

    def refuse(self, key: str, value: object) -> ModelError:
        return ModelError(f"{self.path}: {key}={value!r} is not supported", reason="UnsupportedModel")
