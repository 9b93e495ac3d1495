"""Who may be captured: the service's rule, then the client's own word, then the sample.

Pure. The header only ever narrows what the service allows, but for `header-only`, where it is what allows.
"""

from __future__ import annotations

import hashlib
from typing import Literal

HEADER = "x-bowsprit-capture"

Consent = Literal["all", "header-only", "none"]


def is_allowed(consent: Consent, header: str | None) -> bool:
    """Whether a request with this header value (None: absent) may be captured. Unknown values count as a refusal."""
    if consent == "none":
        return False
    if header is None:
        return consent == "all"
    return header.strip().lower() == "allow"


def is_sampled(request_id: str, sample_rate: float) -> bool:
    """A share of `sample_rate` of request ids, the same answer for the same id."""
    fraction = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") / 2**64
    return fraction < sample_rate


def tenant_of(user: str | None) -> str:
    """A name for the caller's `user` that groups but doesn't tell who: 16 hex digits of its sha256, "" without one."""
    return hashlib.sha256(user.encode()).hexdigest()[:16] if user else ""
