"""Compile the native library with g++, one file per instruction set: `python -m bowsprit_engine.native.build`.

A build is named by the hash of its sources and flags and made once. It is never made at request time: what serves
only loads. `--into-package` puts the files beside the sources, for an image's builder stage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bowsprit_engine.errors import WorldError
from bowsprit_engine.native.variants import (
    COMMON_FLAGS,
    SOURCE_DIR,
    VARIANTS,
    Variant,
    build_dir,
    package_dir,
    sources,
)

COMPILER = "CXX"


def build(folder: Path, variants: Sequence[Variant] = VARIANTS) -> list[Path]:
    """Compile what `folder` lacks and return all libraries. Raises WorldError with the compiler's own words."""
    compiler = find_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=len(variants)) as pool:
        return list(pool.map(lambda variant: _build_one(compiler, folder, variant), variants))


def find_compiler() -> str:
    """The C++ compiler's path: $CXX or g++. Raises WorldError when there is none."""
    name = os.environ.get(COMPILER, "g++")
    path = shutil.which(name)
    if path is None:
        raise WorldError(
            f"no C++ compiler {name!r} in PATH: install g++ (Debian: apt-get install g++) or set {COMPILER}",
            reason="CompilerMissing",
        )
    return path


def _build_one(compiler: str, folder: Path, variant: Variant) -> Path:
    target = folder / variant.file_name
    if target.is_file():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    inputs = [str(path) for path in sources(SOURCE_DIR) if path.suffix == ".cpp"]
    command = [compiler, *COMMON_FLAGS, *variant.flags, *inputs, "-o", str(partial)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        partial.unlink(missing_ok=True)
        raise WorldError(f"{compiler} failed on {variant.name}:\n{finished.stderr[-4000:]}", reason="CompilationFailed")
    partial.replace(target)
    return target


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
