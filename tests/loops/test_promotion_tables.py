"""The pure part of promotion, as tables: what a drafter should serve and shadow, and what its revisions say of it."""

from __future__ import annotations

import pytest

from bowsprit_operator.learning import desired, verdict
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicySpec
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_policy import gate
from bowsprit_policy.promotion import PromotionReason
from bowsprit_policy.shadow import ShadowReason
from builders import MODEL_DIGEST, training_result
from loops.learning_objects import BEGIN, a_model, a_revision, a_training

SERVING_1 = DesiredSpeculator(
    drafter="head", revision="m-head-1", uri="file:///claims/learning/m-head-1", sha256="b" * 64
)


@pytest.mark.parametrize(
    ("serving", "revisions", "digest", "expected"),
    [
        ((), [a_revision(1)], MODEL_DIGEST, ("m-head-1", PromotionReason.GATE_PASSED)),
        ((), [a_revision(1, passed=False)], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((), [a_revision(1, claim="another")], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((), [a_revision(1, drafter="other")], MODEL_DIGEST, (None, PromotionReason.NOTHING_NEW)),
        ((SERVING_1,), [a_revision(1), a_revision(2)], MODEL_DIGEST, ("m-head-2", PromotionReason.GATE_PASSED)),
        (
            (SERVING_1,),
            [a_revision(1), a_revision(2, passed=False)],
            MODEL_DIGEST,
            ("m-head-1", PromotionReason.NOTHING_NEW),
        ),
        ((SERVING_1,), [a_revision(1)], "c" * 64, (None, PromotionReason.TARGET_CHANGED)),
        ((SERVING_1,), [a_revision(1)], None, ("m-head-1", PromotionReason.NOTHING_NEW)),
    ],
    ids=[
        "the first that passed",
        "a rejected one never",
        "one on another claim never",
        "one of another drafter never",
        "the newest that passed",
        "a rejected one leaves the incumbent",
        "another target: untrained",
        "engines silent: unchanged",
    ],
)
def test_what_a_drafter_should_serve(
    serving: tuple[DesiredSpeculator, ...],
    revisions: list[SpeculatorRevision],
    digest: str | None,
    expected: tuple[str | None, PromotionReason],
) -> None:
    """Only what passed the gate, for this target, and what the pods can reach."""
    stored = DraftPolicySpec(revision=1, speculators=serving)
    (choice,) = desired.choices(a_model(), stored=stored, revisions=revisions, model_digest=digest, now=0.0)
    assert (choice.speculator and choice.speculator.revision, choice.reason) == expected
    assert choice.candidate is None


@pytest.mark.parametrize(
    ("promotion", "expected"),
    [
        ({}, ("m-head-1", "m-head-2", PromotionReason.IN_SHADOW)),
        ({"shadow": "90s"}, ("m-head-1", "m-head-2", PromotionReason.IN_SHADOW)),
        ({"shadow": "0s"}, ("m-head-2", None, PromotionReason.GATE_PASSED)),
        ({"mode": "Manual"}, ("m-head-1", None, PromotionReason.MANUAL)),
    ],
)
def test_what_passed_the_gate_drafts_in_the_shadow_first(
    promotion: dict[str, str], expected: tuple[str, str | None, PromotionReason]
) -> None:
    """Unless the spec leaves that stage out; the candidate is offered from where it is stored."""
    stored = DraftPolicySpec(revision=1, speculators=(SERVING_1,))
    revisions = [a_revision(1), a_revision(2, is_shadowed=False)]
    (choice,) = desired.choices(
        a_model(promotion=promotion), stored=stored, revisions=revisions, model_digest=MODEL_DIGEST, now=0.0
    )
    candidate = choice.candidate
    assert choice.speculator is not None
    assert (choice.speculator.revision, candidate and candidate.revision, choice.reason) == expected
    assert candidate is None or candidate.uri == "file:///claims/learning/m-head-2"


@pytest.mark.parametrize(
    ("reason", "written"),
    [
        (PromotionReason.GATE_PASSED, ("True", "GatePassed", "with the numbers")),
        (PromotionReason.PINNED_BY_SPEC, ("True", "PinnedBySpec", "with the numbers")),
        (PromotionReason.IN_SHADOW, ("True", "GatePassed", "it serves")),
        (PromotionReason.NOTHING_NEW, ("True", "GatePassed", "it serves")),
    ],
)
def test_a_revision_says_why_it_serves_also_after_a_restart(
    reason: PromotionReason, written: tuple[str, str, str]
) -> None:
    """The choice that made it serve is gone then; today's is about none, or about the next candidate."""
    status = verdict.promoted(a_revision(1), reason=reason, message="with the numbers", now=BEGIN)
    (found,) = [condition for condition in status.conditions if condition.type == RevisionCondition.PROMOTED]
    assert ((found.status.value, found.reason, found.message), status.stage) == (written, "Promoted")


@pytest.mark.parametrize(
    ("passed", "after", "outcome_", "stage", "promoted"),
    [
        (True, verdict.AfterGate.SERVES, "Promoted", "Promoted", ("True", "GatePassed")),
        (True, verdict.AfterGate.IS_SHADOWED, "Evaluated", "Evaluated", ("False", "InShadow")),
        (True, verdict.AfterGate.WAITS_FOR_USER, "Evaluated", "Evaluated", ("False", "Manual")),
        (False, verdict.AfterGate.IS_SHADOWED, "Rejected", "Rejected", ("False", "WorseThanIncumbent")),
    ],
)
def test_what_the_gate_says_of_a_run_and_its_revision(
    passed: bool, after: verdict.AfterGate, outcome_: str, stage: str, promoted: tuple[str, str]
) -> None:
    """The run's outcome, the revision's stage and why it does or doesn't serve yet."""
    evaluation = training_result(candidate=2.4 if passed else 1.9).evaluation
    digests = {"candidate_model_digest": MODEL_DIGEST, "serving_model_digest": MODEL_DIGEST}
    judgement = gate.judge(evaluation, min_gain=0.02, **digests)
    made = verdict.revision_of(a_training(), training_result(revision="m-head-1"), name="m-head-1", number=1)
    status = verdict.judged(made, judgement, after, BEGIN)
    found = next(condition for condition in status.conditions if condition.type == RevisionCondition.PROMOTED)
    assert (verdict.outcome_of(judgement, after), status.stage) == (outcome_, stage)
    assert (found.status.value, found.reason) == promoted


def test_while_it_is_in_the_shadow_a_revision_stays_the_candidate() -> None:
    """Shadowed is Unknown then, and has figures in its message already."""
    made = a_revision(2, is_shadowed=False)
    going_on = verdict.finding(RevisionCondition.SHADOWED, None, ShadowReason.SHADOWING, "0.62 more")
    revision = made.model_copy(update={"status": verdict.with_findings(made.status, (going_on,), now=BEGIN)})
    stored = DraftPolicySpec(revision=1, speculators=(SERVING_1,))
    (choice,) = desired.choices(
        a_model(), stored=stored, revisions=[a_revision(1), revision], model_digest=MODEL_DIGEST, now=0.0
    )
    assert choice.speculator == SERVING_1
    assert choice.candidate is not None
    assert choice.candidate.revision == "m-head-2"
