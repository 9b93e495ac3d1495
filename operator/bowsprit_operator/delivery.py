"""Bringing a DraftPolicy to pods: the table to those that hold an older one, speculators to those that lack them.

Decides what a pod still needs, in which role, and that nothing is done to a shadow before what should serve does: the
shadow may be it, and then the pod has it in memory. Refuses to decide what the table says and when a refused speculator
is offered again (loads.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bowsprit_operator.fleet import ScrapedPod
from bowsprit_operator.loads import Loads, Offer
from bowsprit_operator.resources.draft_policy import (
    DesiredSpeculator,
    DraftPolicySpec,
    LoadedShadow,
    LoadedSpeculator,
    PodAcknowledgement,
)
from bowsprit_operator.world.engines import CallFailure, EngineCallError, Engines
from bowsprit_policy import wire
from bowsprit_policy.shadow import ShadowState
from bowsprit_policy.wire import DrafterRole, DrafterState, DrafterStats, DrafterType

_TOO_OLD = "its engine knows no shadows"
_STATES = {CallFailure.UNUSABLE: ShadowState.BROKEN, CallFailure.PASSING: ShadowState.LOADING}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What one drafter should serve and score in its shadow; None: nothing."""

    serving: DesiredSpeculator | None = None
    candidate: DesiredSpeculator | None = None


class Delivery:
    """Pushes, and says what each pod has acknowledged."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._loads = Loads(engines)

    async def deliver(
        self, spec: DraftPolicySpec, pods: Iterable[ScrapedPod], *, heads: Iterable[str], now: float
    ) -> tuple[PodAcknowledgement, ...]:
        """`heads`: the drafters of type Head; one that the policy names no speculator for is unloaded."""
        serving = {entry.drafter: entry for entry in spec.speculators}
        candidates = {entry.drafter: entry for entry in spec.candidates}
        wanted = {
            drafter: _Wanted(serving=serving.get(drafter), candidate=candidates.get(drafter))
            for drafter in {*heads, *serving, *candidates}
        }
        return tuple(await asyncio.gather(*(self._deliver_one(spec, pod, wanted, now) for pod in pods)))

    async def aclose(self) -> None:
        """Stop offering; a load that a pod has begun goes on there."""
        await self._loads.aclose()

    def forget_pods_except(self, uids: Iterable[str]) -> None:
        """Drop what is remembered of pods that are gone."""
        self._loads.forget_pods_except(uids)

    async def _deliver_one(
        self, spec: DraftPolicySpec, pod: ScrapedPod, wanted: Mapping[str, _Wanted], now: float
    ) -> PodAcknowledgement:
        stats = pod.stats
        if stats is None:
            message = str(pod.failure) if pod.failure is not None else "no stats"
            return PodAcknowledgement(name=pod.address.name, uid=pod.address.uid, message=message[:1024])
        revision, lowered = stats.policy_revision, stats.lowered
        complaints: list[str] = []
        if spec.table and revision < spec.revision:  # without a table yet, pods keep their own
            try:
                answer = await self._engines.push_policy(
                    pod.address, wire.PolicyTable(revision=spec.revision, table=spec.table)
                )
                revision, lowered = answer.revision, answer.lowered
            except EngineCallError as error:
                complaints.append(str(error))
        speculators = []
        for drafter in stats.drafters:
            shadow = None
            if drafter.name in wanted:
                complaint, shadow = self._offer(pod, stats.boot_id, drafter, wanted[drafter.name], now)
                complaints += [] if complaint is None else [complaint]
            if drafter.type is DrafterType.HEAD:
                speculators.append(
                    LoadedSpeculator(
                        drafter=drafter.name, revision=drafter.revision, state=drafter.state, shadow=shadow
                    )
                )
        return PodAcknowledgement(
            name=pod.address.name,
            uid=pod.address.uid,
            revision=revision,
            speculators=tuple(speculators),
            lowered=lowered,
            message="; ".join(complaints)[:1024] or None,
        )

    def _offer(
        self, pod: ScrapedPod, boot_id: str, drafter: DrafterStats, wanted: _Wanted, now: float
    ) -> tuple[str | None, LoadedShadow | None]:
        """Offer what this drafter lacks. Returns why what should serve was refused, and what is in the shadow."""
        serving = Offer.of(pod.address, boot_id, drafter.name, wanted.serving, DrafterRole.SERVING)
        if drafter.revision != serving.revision:
            refusal = self._loads.offer(serving, now)
            complaint = None if refusal is None else refusal.message
            return complaint, _waiting(wanted.candidate, complaint or "what should serve comes first")
        self._loads.accept(serving)
        return None, self._offer_shadow(pod, boot_id, drafter, wanted.candidate, now)

    def _offer_shadow(
        self,
        pod: ScrapedPod,
        boot_id: str,
        drafter: DrafterStats,
        candidate: DesiredSpeculator | None,
        now: float,
    ) -> LoadedShadow | None:
        found = drafter.shadow
        offer = Offer.of(pod.address, boot_id, drafter.name, candidate, DrafterRole.SHADOW)
        if (None if found is None else found.candidate.revision) == offer.revision:
            self._loads.accept(offer)
        elif drafter.knows_shadows:
            refusal = self._loads.offer(offer, now)
            if refusal is not None and candidate is not None:
                state = _STATES.get(refusal.reason, ShadowState.REFUSED)
                return LoadedShadow(revision=candidate.revision, state=state, message=refusal.message[:1024])
            return _waiting(candidate, None)
        elif candidate is not None:
            return LoadedShadow(revision=candidate.revision, state=ShadowState.UNSUPPORTED, message=_TOO_OLD)
        if candidate is None or found is None:
            return None
        is_broken = found.state is DrafterState.BROKEN
        return LoadedShadow(
            revision=candidate.revision,
            state=ShadowState.BROKEN if is_broken else ShadowState.SCORING,
            message=found.reason[:1024] or None,
        )


def _waiting(candidate: DesiredSpeculator | None, message: str | None) -> LoadedShadow | None:
    if candidate is None:
        return None
    return LoadedShadow(revision=candidate.revision, state=ShadowState.LOADING, message=message and message[:1024])
