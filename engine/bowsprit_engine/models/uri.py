"""Where a model URI lies on this machine. Decides only that; whether a model is there, and sound, is for its reader.

First light reads what is mounted: plain paths, `file:///path`, and `pvc://claim/path`, which is `/claims/claim/path`
(the folder of claims is `BOWSPRIT_CLAIMS_DIR`).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from bowsprit_engine.errors import ModelError

CLAIMS_DIR = "BOWSPRIT_CLAIMS_DIR"
SCHEMES = ("file:///path", "pvc://claim/path", "a plain path")


def resolve_uri(uri: str) -> Path:
    """The local path that a URI names. Raises ModelError for one that names none."""
    if "://" not in uri:
        if not uri:
            raise _refused(uri, "it is empty")
        return Path(uri)
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise _refused(uri, f"a file URI names no host, this one names {parts.netloc!r}")
        if not path:
            raise _refused(uri, "it has no path")
        return Path(path)
    if parts.scheme == "pvc":
        return _in_claim(uri, claim=parts.netloc, path=path)
    raise _refused(uri, f"its scheme {parts.scheme!r} is not one of: {', '.join(SCHEMES)}")


def _in_claim(uri: str, *, claim: str, path: str) -> Path:
    inside = PurePosixPath(path.lstrip("/"))
    if not claim:
        raise _refused(uri, "it names no claim")
    if ".." in inside.parts or claim in (".", ".."):
        raise _refused(uri, "it leaves its claim")
    return Path(os.environ.get(CLAIMS_DIR, "/claims")) / claim / inside


def _refused(uri: str, cause: str) -> ModelError:
    return ModelError(f"model URI {uri!r}: {cause}", reason="InvalidModelUri")
