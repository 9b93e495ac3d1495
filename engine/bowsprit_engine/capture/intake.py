"""Which finished requests are kept: consent, sample, tenant. Decided when a request arrives; kept when it has ended.

Refuses to know how and where they are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, Protocol

from bowsprit_engine.core.request import FinishedRequest
from bowsprit_policy.wire import CaptureStats

Consent = Literal["all", "header-only", "none"]
CONSENT_HEADER = "x-bowsprit-capture"
TENANT_HEADER = "x-bowsprit-tenant"


class Writer(Protocol):
    """Where kept requests go."""

    def offer(self, finished: FinishedRequest) -> None:
        """Never blocks and never raises."""

    def drop(self, reason: str, *, tokens: int) -> None:
        """Count one that isn't kept."""

    def stats(self) -> CaptureStats: ...

    def tokens_by_outcome(self) -> Mapping[str, int]: ...

    def close(self) -> None:
        """Write what is buffered."""


class Capture:
    """The intake of one pod. Without a writer nothing is kept."""

    def __init__(
        self, writer: Writer | None, *, consent: Consent = "all", sample_rate: float = 1.0, tenant_key: str = ""
    ) -> None:
        self._writer = writer
        self._consent = consent
        self._sample_rate = sample_rate
        self._tenant_key = hashlib.blake2b(tenant_key.encode(), digest_size=32).digest()

    def is_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether the caller lets this request be kept. Any word but `allow` in the header forbids it."""
        word = headers.get(CONSENT_HEADER)
        match self._consent:
            case "none":
                return False
            case "header-only":
                return word == "allow"
            case "all":
                return word is None or word == "allow"

    def tenant(self, headers: Mapping[str, str], *, user: str | None) -> str:
        """A keyed hash of the header and of OpenAI's `user`, "" without both. The names themselves are never stored.

        The header is a gateway's to set. `user` is the client's own word: it parts a tenant further, and never names
        another tenant, whose cached prompts it could time.
        """
        names = (headers.get(TENANT_HEADER) or "", user or "")
        if names == ("", ""):
            return ""
        return hashlib.blake2b(json.dumps(names).encode(), key=self._tenant_key, digest_size=8).hexdigest()

    def take(self, finished: FinishedRequest) -> None:
        """Called by the engine's thread when a request ended. Never blocks and never raises."""
        if self._writer is None:
            return
        tokens = len(finished.prompt_token_ids) + len(finished.response_token_ids)
        if not finished.capture_allowed:
            self._writer.drop("NoConsent", tokens=tokens)
        elif not finished.response_token_ids:
            self._writer.drop("NoResponse", tokens=tokens)
        elif not self._is_sampled(finished.request_id):
            self._writer.drop("NotSampled", tokens=tokens)
        else:
            self._writer.offer(finished)

    def stats(self) -> CaptureStats:
        return CaptureStats() if self._writer is None else self._writer.stats()

    def tokens_by_outcome(self) -> Mapping[str, int]:
        return {} if self._writer is None else self._writer.tokens_by_outcome()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _is_sampled(self, request_id: str) -> bool:
        """By a hash of the id, which is random: no state, and every rate's sample holds those of all lower rates."""
        if self._sample_rate >= 1:
            return True
        draw = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")
        return draw < self._sample_rate * 2**64
