"""The model digest: sha256 over canonical JSON of config, tokenizer and each weight file's (name, size, sha256).

It ties a speculator to the target that it was trained on. Hashing gigabytes takes seconds, so each file's sha256 is
kept under the cache folder by (path, size, mtime); a cache that can't be written only costs time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bowsprit_engine.errors import ModelError

logger = logging.getLogger(__name__)

CACHE_DIR = "BOWSPRIT_CACHE_DIR"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def cache_dir() -> Path:
    """Where this engine keeps what it can compute again."""
    configured = os.environ.get(CACHE_DIR)
    return Path(configured) if configured else Path.home() / ".cache" / "bowsprit"


def model_digest(*, config: Mapping[str, Any], tokenizer: object, weight_files: Sequence[Path]) -> str:
    """Hex sha256. `config` and `tokenizer` are anything that JSON can hold."""
    return _sha256_json(
        {
            "config": config,
            "tokenizer": tokenizer,
            "weights": [
                {"name": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)} for path in weight_files
            ],
        }
    )


def tokenizer_files_digest(folder: Path) -> dict[str, str]:
    """sha256 of each tokenizer file of a Hugging Face folder."""
    return {name: file_sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, from the cache when path, size and mtime are those of last time."""
    try:
        stat = path.stat()
        key = _sha256_json([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        entry = cache_dir() / "sha256" / key
        cached = _cached(entry)
        if cached is not None:
            return cached
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}", reason="ModelNotFound") from error
    _keep(entry, digest)
    return digest


def _cached(entry: Path) -> str | None:
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(text) == hashlib.sha256().digest_size * 2 else None


def _keep(entry: Path, digest: str) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_name(f"{entry.name}.{os.getpid()}")
        partial.write_text(digest, encoding="ascii")
        partial.replace(entry)
    except OSError as error:
        logger.warning("sha256 of weight files is not cached: %s", error)


def _sha256_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
