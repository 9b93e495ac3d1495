"""The native libraries, the instruction sets that the kernels' is compiled for, and where a build lies.

Decides names, flags and places. Neither compiles (build.py) nor loads (loading.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SOURCE_DIR = Path(__file__).parent
CACHE_DIR = "BOWSPRIT_CACHE_DIR"
CHOSEN_VARIANT = "BOWSPRIT_NATIVE_VARIANT"  # a name, to compare instruction sets; absent: the best that runs here
COMMON_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=off",  # else a sum may be fused in one tile shape and not in another, and rows would differ
    "-fno-math-errno",
    "-static-libstdc++",
    "-static-libgcc",
    # Each library keeps to itself: otherwise its own names, and the libstdc++ linked into it, are bound to those of
    # libraries that were loaded before (torch's libstdc++, another variant).
    "-Wl,-Bsymbolic",
    "-Wl,--exclude-libs,ALL",
    "-fno-gnu-unique",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One compiled file, of all sources in one folder."""

    name: str
    flags: tuple[str, ...] = ()
    source_dir: Path = SOURCE_DIR

    @property
    def file_name(self) -> str:
        return f"libbowsprit_{self.name}.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant(Library):
    """The kernels for one instruction set. `cpu_features` are the flags of /proc/cpuinfo that it needs.

    `activations` is the type that a matrix product's inputs are rounded to (and its name in torch): bfloat16 where the
    instructions multiply pairs of bf16. So two variants differ in their logits, and each agrees with itself.
    """

    cpu_features: frozenset[str]
    activations: Literal["float32", "bfloat16"]


AVX512_FLAGS = (
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mbmi2",
    "-mprefer-vector-width=512", "-Wno-uninitialized", "-Wno-maybe-uninitialized",  # g++ 12's own headers
)  # fmt: skip
AVX512_FEATURES = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma", "bmi2"})

# The best first.
VARIANTS = (
    Variant(
        name="amxbf16",
        flags=(*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
        cpu_features=AVX512_FEATURES | {"avx512_bf16", "amx_tile", "amx_bf16"},
        activations="bfloat16",
    ),
    Variant(
        name="avx512bf16",
        flags=(*AVX512_FLAGS, "-mavx512bf16"),
        cpu_features=AVX512_FEATURES | {"avx512_bf16"},
        activations="bfloat16",
    ),
    Variant(
        name="avx512",
        flags=AVX512_FLAGS,
        cpu_features=AVX512_FEATURES,
        activations="float32",
    ),
    Variant(
        name="avx2",
        flags=("-mavx2", "-mfma", "-mbmi2", "-mtune=znver3"),
        cpu_features=frozenset({"avx2", "fma", "bmi2"}),
        activations="float32",
    ),
)

# Of look-up: no kernels, so one for whatever processor compiles it.
LOOKUP = Library(name="lookup", source_dir=SOURCE_DIR / "lookup")


def usable(features: frozenset[str], name: str | None = None) -> tuple[Variant, ...]:
    """The variants that a processor with these features runs, the best first; of one name only, if it is given."""
    return tuple(v for v in VARIANTS if v.cpu_features <= features and name in (None, v.name))


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features of the first processor, as the kernel allows them; empty where there is no such file."""
    return frozenset(_field(cpuinfo, "flags").split())


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, for the profile's key."""
    return _field(cpuinfo, "model name") or "unknown CPU"


def sources(folder: Path = SOURCE_DIR) -> list[Path]:
    """Every C++ file, sorted."""
    return sorted([*folder.glob("*.cpp"), *folder.glob("*.hpp")])


def content_hash(libraries: Sequence[Library] = VARIANTS, folder: Path | None = None) -> str:
    """Names a build of libraries that share their sources: it changes with any source and with any flag.

    `folder`: of the sources, if not the libraries' own.
    """
    digest = hashlib.sha256()
    for part in (*COMMON_FLAGS, *(flag for library in libraries for flag in (library.name, *library.flags))):
        digest.update(part.encode() + b"\0")
    for path in sources(libraries[0].source_dir if folder is None else folder):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def package_dir() -> Path:
    """Where an image's builder stage puts the libraries."""
    return SOURCE_DIR


def build_dir(libraries: Sequence[Library] = VARIANTS) -> Path:
    """Where `make setup` puts them: under the cache folder, by content."""
    configured = os.environ.get(CACHE_DIR)
    cache = Path(configured) if configured else _home_cache()
    return cache / "native" / content_hash(libraries)


def search_path(libraries: Sequence[Library] = VARIANTS) -> tuple[Path, ...]:
    """Folders in which a library is looked for, in order.

    In a checkout a library in the package may be older than its sources; the cache, keyed by content, never is. The
    package's own comes first all the same: an image has no cache at first.
    """
    return (package_dir(), build_dir(libraries), _home_cache() / "native" / content_hash(libraries))


def _home_cache() -> Path:
    return Path.home() / ".cache" / "bowsprit"


def _field(cpuinfo: Path, name: str) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
