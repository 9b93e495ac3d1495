"""The library of look-up and of the pool's ledger (`native/lookup`): where it is looked for, and its functions' types.

Refuses to know what they are for: drafters/suffix_in_cpp.py and speculation/ledger_in_cpp.py call them.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_char_p, c_double, c_int, c_int32, c_int64, c_void_p

from bowsprit_engine.errors import WorldError
from bowsprit_engine.native.loading import Signatures, open_library
from bowsprit_engine.native.variants import LOOKUP, content_hash, search_path

WORDS = (c_void_p, c_int64)  # a message: its address, and how many words

SIGNATURES: Signatures = {
    "bowsprit_build": (c_char_p, []),
    "bowsprit_lookup_error": (c_char_p, []),
    "bowsprit_lookup_new": (c_void_p, [c_int64]),
    "bowsprit_lookup_free": (None, [c_void_p]),
    "bowsprit_lookup_follow": (c_int, [c_void_p, c_char_p, c_int64, *WORDS, c_int64, c_void_p]),
    "bowsprit_lookup_forget": (c_int, [c_void_p, c_int32]),
    "bowsprit_lookup_tell": (c_int, [c_void_p, *WORDS]),
    "bowsprit_lookup_draft": (c_int, [c_void_p, *WORDS, *WORDS, c_void_p, c_void_p, c_void_p]),
    "bowsprit_ledger_new": (c_void_p, [c_void_p, c_void_p, c_void_p, c_int64]),
    "bowsprit_ledger_free": (None, [c_void_p]),
    "bowsprit_ledger_begin_step": (c_int, [c_void_p, *WORDS, *WORDS, c_double, c_double]),
    "bowsprit_ledger_due": (c_int, [c_void_p, c_int32, *WORDS, c_double, c_void_p]),
    "bowsprit_ledger_waiting": (c_int, [c_void_p, c_int32, *WORDS, c_void_p]),
    "bowsprit_ledger_watch": (c_int, [c_void_p, c_int32, *WORDS, c_void_p]),
    "bowsprit_ledger_take": (c_int, [c_void_p, *WORDS, c_void_p, c_void_p, c_void_p]),
    "bowsprit_ledger_whom_to_ask": (c_int, [c_void_p, c_int32, *WORDS, c_void_p, c_double, c_void_p]),
    "bowsprit_ledger_follow": (c_int, [c_void_p, c_int32, *WORDS, c_void_p, c_void_p]),
    "bowsprit_ledger_proposals": (c_int, [c_void_p, c_void_p, c_int64, c_void_p]),
    "bowsprit_ledger_tell": (c_int, [c_void_p, *WORDS, c_void_p]),
    "bowsprit_ledger_forget": (c_int, [c_void_p, c_int32, c_int64, *WORDS, c_void_p]),
    "bowsprit_ledger_watched": (c_int, [c_void_p, c_void_p]),
    "bowsprit_ledger_void": (c_int, [c_void_p, c_int32]),
}


@functools.cache
def library() -> ctypes.CDLL:
    """Loaded once per process. Raises WorldError naming where it was looked for."""
    folders = search_path((LOOKUP,))
    for folder in folders:
        if (folder / LOOKUP.file_name).is_file():
            return open_library(folder / LOOKUP.file_name, SIGNATURES, built_from=content_hash((LOOKUP,)))
    raise WorldError(
        f"no {LOOKUP.file_name} in {', '.join(dict.fromkeys(map(str, folders)))}: "
        "build it with `python -m bowsprit_engine.native.build`",
        reason="NativeLibraryMissing",
    )
