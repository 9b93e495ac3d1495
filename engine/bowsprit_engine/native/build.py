"""Compile the native libraries with g++: `python -m bowsprit_engine.native.build`.

Look-up's is one file for any processor, the kernels' one per instruction set, where there are any for this machine.

A build is named by the hash of its sources and flags and made once. It is never made at request time: what serves
only loads. `--into-package` puts the files beside the sources, for an image's builder stage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
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
    LOOKUP,
    VARIANTS,
    Library,
    build_dir,
    content_hash,
    package_dir,
    sources,
)

COMPILER = "CXX"


X86 = frozenset({"x86_64", "AMD64"})


def build(folder: Path, libraries: Sequence[Library] = VARIANTS) -> list[Path]:
    """Compile what `folder` lacks of libraries that share their sources, and return all.

    Raises WorldError with the compiler's own words, or with what the folder refuses.
    """
    compiler = find_compiler()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        named = content_hash(libraries)
        with ThreadPoolExecutor(max_workers=len(libraries)) as pool:
            return list(pool.map(lambda library: _build_one(compiler, folder, library, named), libraries))
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


def _build_one(compiler: Sequence[str], folder: Path, library: Library, named: str) -> Path:
    target = folder / library.file_name
    if target.is_file():
        return target
    inputs = [str(path) for path in sources(library.source_dir) if path.suffix == ".cpp"]
    with _partial(target) as partial:
        define = f'-DBOWSPRIT_BUILD="{named}"'
        command = [*compiler, *COMMON_FLAGS, *library.flags, define, *inputs, "-o", str(partial)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            words = finished.stderr[-4000:]
            raise WorldError(f"{shlex.join(compiler)} failed on {library.name}:\n{words}", reason="CompilationFailed")
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
    """Exit code 0 when every library for this machine is there. One that can't be built holds up no other."""
    parser = argparse.ArgumentParser(prog="python -m bowsprit_engine.native.build", description=__doc__)
    parser.add_argument("--into-package", action="store_true", help="put the libraries beside the sources, anew")
    options = parser.parse_args(arguments)
    exit_code = 0
    for libraries in wanted(platform.machine()):
        folder = package_dir() if options.into_package else build_dir(libraries)
        try:
            if options.into_package:
                for library in libraries:
                    (folder / library.file_name).unlink(missing_ok=True)
            for path in build(folder, libraries):
                print(path)
        except WorldError as error:
            print(error, file=sys.stderr)
            exit_code = 1
    return exit_code


def wanted(machine: str) -> tuple[Sequence[Library], ...]:
    """Libraries by their sources, of use on a `machine` (as platform.machine() names it)."""
    return ((LOOKUP,), VARIANTS) if machine in X86 else ((LOOKUP,),)


if __name__ == "__main__":
    sys.exit(main())
