"""Kubernetes quantities ("2Gi", "50k"), read into whole numbers by kubernetes.utils."""

from __future__ import annotations

from typing import Annotated

from kubernetes.utils.quantity import parse_quantity
from pydantic import BeforeValidator, PlainSerializer


def parse(text: str | int) -> int:
    """Rounds up to a whole number, as Kubernetes does. Raises ValueError on an unknown suffix."""
    value = parse_quantity(text)
    return int(value) if value == int(value) else int(value) + 1


def _read(value: object) -> object:
    return parse(value) if isinstance(value, str | int) else value


Quantity = Annotated[int, BeforeValidator(_read), PlainSerializer(str, return_type=str)]
"""A count or a size in bytes; written back in full, without suffix."""


def format_bytes(size: int) -> str:
    """2147483648 as "2Gi": the largest binary suffix that loses nothing."""
    for exponent, suffix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size and size % 1024**exponent == 0:
            return f"{size // 1024**exponent}{suffix}"
    return str(size)
