"""Which speculator revision should serve. First light knows one stage, All: no shadow, no canary.

Refuses to know how a revision is loaded; what was decided before is read from the revisions, not remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy.decision import Decision
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import PromotionMode


class PromotionReason(StrEnum):
    """Why the serving revision changes, or stays."""

    GATE_PASSED = "GatePassed"
    PINNED_BY_SPEC = "PinnedBySpec"
    TARGET_CHANGED = "TargetChanged"
    REVISION_MISSING = "RevisionMissing"
    # unchanged
    NOTHING_NEW = "NothingNew"
    MANUAL = "Manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A stored speculator of this model and drafter. `number` orders them; `verdict` None: not evaluated yet."""

    name: str
    number: int
    model_digest: str
    verdict: Verdict | None
    parent: str | None = None
    is_rolled_back: bool = False
    acceptance_length: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionStep:
    """`serving`: what should serve from now on, None for the untrained drafters. `decision` None: nothing changed."""

    serving: str | None
    reason: PromotionReason
    message: str
    decision: Decision | None


def step(
    *,
    serving: str | None,
    revisions: tuple[Revision, ...],
    mode: PromotionMode,
    pinned: str | None,
    model_digest: str | None,
    now: float,
) -> PromotionStep:
    """Choose. `pinned`: the revision named in spec. `model_digest`: that of the engines, None while unknown (holds)."""
    raise NotImplementedError
