"""Which speculator revision should serve, and which should be scored in its shadow before it does.

A target change invalidates every speculator: fall back to untrained drafters at once. A pinned revision is the user's
promotion and needs no verdict, only the right model. Refuses to know how a revision is loaded and how a shadow is
judged (shadow.py does); what was decided before is read from the revisions, not remembered. No canary yet: what comes
out of its shadow serves on all pods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from bowsprit_policy import record
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.gate import Verdict
from bowsprit_policy.observation import PromotionMode


class PromotionReason(StrEnum):
    """Why the serving revision changes, or stays."""

    GATE_PASSED = "GatePassed"
    PINNED_BY_SPEC = "PinnedBySpec"
    TARGET_CHANGED = "TargetChanged"
    REVISION_MISSING = "RevisionMissing"
    # unchanged
    IN_SHADOW = "InShadow"
    NOTHING_NEW = "NothingNew"
    MANUAL = "Manual"
    DRAFTER_REMOVED = "DrafterRemoved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A stored speculator of this model and drafter. `number` orders them; `verdict` None: not evaluated yet.

    `verdict` is that of the gate and of its shadow together. `shadow`: how its shadow ended, None while it hasn't.
    """

    name: str
    number: int
    model_digest: str
    verdict: Verdict | None
    parent: str | None = None
    is_rolled_back: bool = False
    acceptance_length: float | None = None
    shadow: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionInputs:
    """Everything that a promotion looks at. `candidate`: what drafts in the shadow now.

    `shadow_seconds`: the longest time that it does; 0 without that stage.
    """

    serving: str | None
    revisions: tuple[Revision, ...]
    mode: PromotionMode
    pinned: str | None
    model_digest: str | None
    candidate: str | None = None
    shadow_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionOutcome:
    """`serving`: what should serve from now on, None for the untrained drafters. `candidate`: what in its shadow."""

    serving: str | None
    reason: PromotionReason
    message: str
    candidate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionStep:
    """The outcome, and the decision that it is; None where nothing changed that status should tell."""

    outcome: PromotionOutcome
    decision: Decision | None


def step(inputs: PromotionInputs, *, now: float) -> PromotionStep:
    """Choose. `pinned`: the revision named in spec. `model_digest`: that of the engines, None while unknown (holds)."""
    outcome = decide(inputs)
    kind = _kind(inputs, outcome)
    if kind is None:
        return PromotionStep(outcome=outcome, decision=None)
    after = outcome.candidate if kind is DecisionKind.SHADOW else outcome.serving
    decision = Decision(
        at=now,
        kind=kind,
        reason=outcome.reason,
        message=outcome.message,
        before=inputs.serving or "untrained",
        after=after or "untrained",
        record=record.line(kind=kind, at=now, inputs=inputs, outcome=outcome),
    )
    return PromotionStep(outcome=outcome, decision=decision)


def _kind(inputs: PromotionInputs, outcome: PromotionOutcome) -> DecisionKind | None:
    if outcome.serving != inputs.serving:
        return DecisionKind.PROMOTE if outcome.serving is not None else DecisionKind.ROLLBACK
    is_new = outcome.candidate is not None and outcome.candidate != inputs.candidate
    return DecisionKind.SHADOW if is_new else None


def decide(inputs: PromotionInputs) -> PromotionOutcome:
    """Choose. `model_digest` None (no engine has reported): what serves stays."""
    digest = inputs.model_digest
    if digest is None:
        unknown = _unchanged(inputs, "no engine has told its model digest yet")
        return replace(unknown, candidate=inputs.candidate)
    known = {revision.name: revision for revision in inputs.revisions}
    if inputs.pinned is not None:
        return _pinned(inputs, known.get(inputs.pinned), digest)
    serving = known.get(inputs.serving) if inputs.serving is not None else None
    if inputs.serving is not None and serving is None:
        return _fallback(PromotionReason.REVISION_MISSING, f"revision {inputs.serving} does not exist any more")
    if serving is not None and serving.model_digest != digest:
        return _fallback(PromotionReason.TARGET_CHANGED, _mismatch(serving, digest))
    newest = max(
        (
            revision
            for revision in inputs.revisions
            if revision.verdict is Verdict.PASSED
            and revision.model_digest == digest
            and not revision.is_rolled_back
            and (serving is None or revision.number > serving.number)
        ),
        key=lambda revision: revision.number,
        default=None,
    )
    if newest is None:
        return _unchanged(inputs, "no newer revision has passed the gate")
    if inputs.mode is PromotionMode.MANUAL:
        return PromotionOutcome(
            serving=inputs.serving,
            reason=PromotionReason.MANUAL,
            message=f"{newest.name} passed the gate and waits: pin it in spec to promote it",
        )
    length = f", acceptance length {newest.acceptance_length:.2f}" if newest.acceptance_length is not None else ""
    passed = f"{newest.name} passed the gate{length}"
    if newest.shadow is None and inputs.shadow_seconds > 0:
        beside = inputs.serving or "the untrained drafters"
        return PromotionOutcome(
            serving=inputs.serving,
            candidate=newest.name,
            reason=PromotionReason.IN_SHADOW,
            message=f"{passed}, and drafts beside {beside} for at most {inputs.shadow_seconds:.0f} s before it serves",
        )
    ended = f"; in its shadow: {newest.shadow}" if newest.shadow is not None else ""
    return PromotionOutcome(serving=newest.name, reason=PromotionReason.GATE_PASSED, message=f"{passed}{ended}")


def _pinned(inputs: PromotionInputs, revision: Revision | None, digest: str) -> PromotionOutcome:
    if revision is None:
        message = f"revision {inputs.pinned}, pinned in spec, does not exist"
        return PromotionOutcome(serving=inputs.serving, reason=PromotionReason.REVISION_MISSING, message=message)
    if revision.model_digest != digest:
        return _fallback(PromotionReason.TARGET_CHANGED, _mismatch(revision, digest))
    return PromotionOutcome(
        serving=revision.name, reason=PromotionReason.PINNED_BY_SPEC, message=f"{revision.name} is pinned in spec"
    )


def _fallback(reason: PromotionReason, message: str) -> PromotionOutcome:
    return PromotionOutcome(serving=None, reason=reason, message=f"{message}: untrained drafters serve")


def _unchanged(inputs: PromotionInputs, message: str) -> PromotionOutcome:
    return PromotionOutcome(serving=inputs.serving, reason=PromotionReason.NOTHING_NEW, message=message)


def _mismatch(revision: Revision, digest: str) -> str:
    return f"{revision.name} was trained for model {revision.model_digest[:12]}, the engines serve {digest[:12]}"
