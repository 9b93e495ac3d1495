"""DraftPolicy as typed values: the only desired state of the engine pods, and what each has acknowledged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from bowsprit_operator.resources.base import Resource, ResourceValue
from bowsprit_operator.resources.kinds import DRAFT_POLICY, Kind
from bowsprit_policy.shadow import ShadowState
from bowsprit_policy.wire import DrafterState, LoweredDrafter, Sha256, TableRow


class DesiredSpeculator(ResourceValue):
    """The trained speculator that one drafter should serve, or score in its shadow."""

    drafter: str
    revision: str
    uri: str
    sha256: Sha256


def of_drafter(entries: Iterable[DesiredSpeculator], drafter: str) -> DesiredSpeculator | None:
    """One drafter's entry; None where it has none."""
    return next((entry for entry in entries if entry.drafter == drafter), None)


class DraftPolicySpec(ResourceValue):
    """`reason` and `message`: why this revision was written. `candidates` draft in the shadow of `speculators`."""

    revision: int
    reason: str | None = None
    message: str | None = None
    table: tuple[TableRow, ...] = ()
    speculators: tuple[DesiredSpeculator, ...] = ()
    candidates: tuple[DesiredSpeculator, ...] = ()


class LoadedShadow(ResourceValue):
    """What a pod does with a candidate. `message`: why it doesn't score it."""

    revision: str
    state: ShadowState
    message: str | None = None


class LoadedSpeculator(ResourceValue):
    """What a pod says about one trained drafter. `revision` None: untrained. `shadow`: of its candidate, if any."""

    drafter: str
    revision: str | None = None
    state: DrafterState
    shadow: LoadedShadow | None = None


class PodAcknowledgement(ResourceValue):
    """What one pod said that it executes. `message`: why that isn't what the policy says, if so."""

    name: str
    uid: str
    revision: int | None = None
    speculators: tuple[LoadedSpeculator, ...] = ()
    lowered: tuple[LoweredDrafter, ...] = ()
    message: str | None = None


class DraftPolicyStatus(ResourceValue):
    """Acknowledgements of the pods that exist."""

    pods: tuple[PodAcknowledgement, ...] = ()


class DraftPolicy(Resource):
    """The whole object, named like its SpeculativeModel."""

    KIND: ClassVar[Kind] = DRAFT_POLICY

    spec: DraftPolicySpec
    status: DraftPolicyStatus = DraftPolicyStatus()
