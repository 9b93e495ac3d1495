"""How people write sizes, durations and choices on a command line, read into plain values.

Sizes are Kubernetes' quantities ("2Gi", "500M"), durations GEP-2257's ("1h30m"). Every refusal names what is allowed.
"""

from __future__ import annotations

import re

from bowsprit_policy.wire import DrafterType

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNIT_BYTES = {
    None: 1,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}
_DURATION = re.compile(r"(?:\d{1,5}(?:h|ms|m|s)){1,4}")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def read_bytes(value: object) -> object:
    """ "2Gi" is 2147483648; numbers and None pass."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("a size is a number with one of the suffixes Ki, Mi, Gi, Ti, k, M, G, T or none, e.g. 2Gi")
    return int(float(match[1]) * _UNIT_BYTES[match[2]])


def read_seconds(value: object) -> object:
    """ "1h30m" is 5400; plain numbers are seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if _DURATION.fullmatch(text) is None:
        raise ValueError("a duration is seconds or of the form 1h30m15s500ms, e.g. 168h")
    return sum(int(count) * _UNIT_SECONDS[unit] for count, unit in re.findall(r"(\d+)(h|ms|m|s)", text))


def read_speculation(value: object) -> object:
    """ "auto", "off", or a number."""
    if isinstance(value, str) and value not in ("auto", "off"):
        if not value.isdecimal():
            raise ValueError("speculation is auto, off, or a number of draft tokens")
        return int(value)
    return value


def read_words(value: object) -> object:
    """ "1 4,8" and ["1 4", "8"] are ("1", "4", "8"); anything else passes."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(word for text in value for word in text.replace(",", " ").split())
    return value


def read_drafter(text: str) -> tuple[str, DrafterType, str | None]:
    """NAME=TYPE, or a type alone, in any case, whose name it then is in lower case; type Model is NAME=Model:URI."""
    name, _, kind = text.partition("=")
    kind, _, uri = kind.partition(":")
    types = {type.lower(): type for type in DrafterType}
    found = types.get((kind or name).lower())
    if found is None or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62})", name):
        raise ValueError(f"a drafter is NAME=TYPE with a type of {', '.join(DrafterType)}, not {text!r}")
    if bool(uri) != (found is DrafterType.MODEL):
        raise ValueError(f"a drafter of type {DrafterType.MODEL}, and no other, is NAME=TYPE:URI, not {text!r}")
    return name if kind else name.lower(), found, uri or None
