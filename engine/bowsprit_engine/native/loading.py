"""Open one compiled library, if it was built from these sources, and declare its functions.

Refuses to know which library serves, and what its functions do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

from bowsprit_engine.errors import WorldError

Signatures = Mapping[str, tuple[object, Sequence[object]]]  # by function: what it returns, what it takes


def open_library(path: Path, signatures: Signatures, *, built_from: str) -> ctypes.CDLL:
    """`built_from`: the content hash that it must name.

    Raises WorldError for a file that is no library, or that was built from other sources than these: its structures
    would not be those of the binding.
    """
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.bowsprit_build.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise WorldError(f"{path}: not loadable: {error}", reason="NativeLibraryBroken") from error
    named = loaded.bowsprit_build().decode()
    if named != built_from:
        raise WorldError(
            f"{path}: built from sources {named}, these are {built_from}: remove it and build it anew with "
            "`python -m bowsprit_engine.native.build`",
            reason="NativeLibraryBroken",
        )
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
