"""Compile the native library with g++, one file per instruction set: `python -m bowsprit_engine.native.build`.

A build is named by the hash of its sources and flags and made once. It is never made at request time: what serves
only loads. `--into-package` puts the files beside the sources, for an image's builder stage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bowsprit_engine.errors import WorldError
from bowsprit_engine.native.variants import (
    CACHE_DIR,
    COMMON_FLAGS,
    SOURCE_DIR,
    VARIANTS,
    Variant,
    build_dir,
    content_hash,
    package_dir,
    sources,
)

COMPILER = "CXX"


def build(folder: Path, variants: Sequence[Variant] = VARIANTS) -> list[Path]:
    """Compile what `folder` lacks and return all libraries.

    Raises WorldError with the compiler's own words, or with what the folder refuses.
    """
    compiler = find_compiler()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=len(variants)) as pool:
            return list(pool.map(lambda variant: _build_one(compiler, folder, variant), variants))
    except OSError as error:
        raise WorldError(
            f"the native library can't be built in {folder}: {error}; {CACHE_DIR} names another cache folder",
            reason="CompilationFailed",
        ) from error


def find_compiler() -> list[str]:
    """The C++ compiler's path and its first arguments: $CXX ("ccache g++") or g++. Raises WorldError without one."""
    name, *arguments = shlex.split(os.environ.get(COMPILER) or "g++")
    path = shutil.which(name)
    if path is None:
        raise WorldError(
            f"no C++ compiler {name!r} in PATH: install g++ (Debian: apt-get install g++) or set {COMPILER}",
            reason="CompilerMissing",
        )
    return [path, *arguments]


def _build_one(compiler: Sequence[str], folder: Path, variant: Variant) -> Path:
    target = folder / variant.file_name
    if target.is_file():
        return target
    inputs = [str(path) for path in sources(SOURCE_DIR) if path.suffix == ".cpp"]
    named = f'-DBOWSPRIT_BUILD="{content_hash()}"'
    with _partial(target) as partial:
        command = [*compiler, *COMMON_FLAGS, *variant.flags, named, *inputs, "-o", str(partial)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            words = finished.stderr[-4000:]
            raise WorldError(f"{shlex.join(compiler)} failed on {variant.name}:\n{words}", reason="CompilationFailed")
        partial.replace(target)
    return target


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A new file beside `target`, gone afterwards if it is still there.

    Its name is nobody else's: pids are not, where containers share a cache.
    """
    handle, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    partial.chmod(0o755)  # mkstemp's files are their owner's only
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every variant is there."""
    parser = argparse.ArgumentParser(prog="python -m bowsprit_engine.native.build", description=__doc__)
    parser.add_argument("--into-package", action="store_true", help="put the libraries beside the sources, anew")
    options = parser.parse_args(arguments)
    folder = package_dir() if options.into_package else build_dir()
    if options.into_package:
        for variant in VARIANTS:
            (folder / variant.file_name).unlink(missing_ok=True)
    try:
        for path in build(folder):
            print(path)
    except WorldError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
