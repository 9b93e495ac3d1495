"""Durations as GEP-2257 writes them ("1h30m"), read into and written from timedelta by kubernetes.utils."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from kubernetes.utils.duration import format_duration, parse_duration
from pydantic import BeforeValidator, PlainSerializer


def parse(text: str) -> timedelta:
    """Raises ValueError on anything that GEP-2257 doesn't allow."""
    parsed: timedelta = parse_duration(text)
    return parsed


def format(span: timedelta) -> str:
    """The canonical form: 90 minutes are "1h30m"."""
    return str(format_duration(span))


def _read(value: object) -> object:
    return parse(value) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_read), PlainSerializer(format, return_type=str)]
