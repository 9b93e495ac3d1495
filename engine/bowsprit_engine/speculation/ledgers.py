"""What keeps the pool's accounts: C++ where its library is built, else Python, its definition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

from bowsprit_engine.errors import WorldError
from bowsprit_engine.native.lookup_library import library
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.ledger import Ledger
from bowsprit_engine.speculation.ledger_in_cpp import LedgerInCpp
from bowsprit_engine.speculation.ledger_in_python import LedgerInPython

logger = logging.getLogger(__name__)


@cache
def best_ledger() -> Callable[[Sequence[Drafter]], Ledger]:
    """The native one where its library is built."""
    try:
        library()
    except WorldError as error:
        logger.warning("the pool weighs drafts in Python, which takes several times as long: %s", error)
        return LedgerInPython
    return LedgerInCpp
