"""Look-up in recent answers as a drafter: who shares them, how much is remembered, and what does the looking up.

Answers are shared within a tenant only, unless told otherwise: how fast a text comes tells whether somebody was told it
before. Refuses to know how a place is found and whom to believe (suffix_in_python.py defines it).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal, Protocol

from bowsprit_engine.errors import WorldError
from bowsprit_engine.native.lookup_library import library
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.suffix_in_cpp import SuffixInCpp
from bowsprit_engine.speculation.drafters.suffix_in_python import SuffixInPython
from bowsprit_policy.wire import DrafterState, DrafterType

logger = logging.getLogger(__name__)

Sharing = Literal["tenant", "all"]

LooksUp = type[SuffixInCpp] | type[SuffixInPython]

KEPT_TOKENS = 100_000  # of recent answers, all tenants together


class LookUp(Protocol):
    """As a drafter's methods. A sequence's tokens only become more from one call to the next."""

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]: ...

    def learn(self, context: DraftContext) -> None: ...

    def forget(self, request_id: str) -> None: ...


class SuffixDrafter:
    """Learns from every emitted token at once. Needs no training and costs microseconds."""

    type = DrafterType.SUFFIX

    def __init__(
        self,
        *,
        name: str,
        sharing: Sharing = "tenant",
        kept_tokens: int = KEPT_TOKENS,
        look_up: LooksUp | None = None,
    ) -> None:
        """`look_up`: what looks up, if not the best that is there."""
        self.name = name
        self.state = DrafterState.ACTIVE
        self.reason = ""
        self.revision: str | None = None
        self._sharing = sharing
        self._look_up: LookUp = (look_up or best_look_up())(owner_of=self._owner, kept_tokens=kept_tokens)

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty where neither source has anything to say."""
        return self._look_up.propose(contexts)

    def learn(self, context: DraftContext) -> None:
        """Judge what was said of what was emitted since the last call, which is looked up from the next draft on."""
        self._look_up.learn(context)

    def forget(self, request_id: str) -> None:
        """The sequence ended; its answer stays."""
        self._look_up.forget(request_id)

    def _owner(self, context: DraftContext) -> str:
        return context.tenant if self._sharing == "tenant" else ""


@cache
def best_look_up() -> LooksUp:
    """The native one where its library is built."""
    try:
        library()
    except WorldError as error:
        logger.warning("recent answers are looked up in Python, which takes ten times as long: %s", error)
        return SuffixInPython
    return SuffixInCpp


def memory(*, live_tokens: int) -> tuple[int, str]:
    """Bytes that recent answers and running sequences of `live_tokens` take at most, and in words what of."""
    look_up = best_look_up()
    detail = f"{KEPT_TOKENS} tokens of recent answers, {live_tokens} of running sequences, their index, "
    num_bytes = KEPT_TOKENS * look_up.bytes_per_token + live_tokens * look_up.bytes_per_live_token
    return num_bytes, detail + look_up.language
