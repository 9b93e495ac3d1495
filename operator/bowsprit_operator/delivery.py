"""Bringing a DraftPolicy to pods: the table to those that hold an older one, speculators to those that lack them.

Decides what a pod still needs and when a refused speculator is offered again. Refuses to decide what the table says.
Loading takes seconds to a minute, so it runs beside the ticks; the next scrape shows how it went.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from bowsprit_operator.fleet import ScrapedPod
from bowsprit_operator.resources.draft_policy import (
    DesiredSpeculator,
    DraftPolicySpec,
    LoadedSpeculator,
    PodAcknowledgement,
)
from bowsprit_operator.world.engines import CallFailure, EngineCallError, Engines, PodAddress
from bowsprit_policy import wire

OFFER_AGAIN_SECONDS = 300.0  # a pod that refused a speculator is offered it again, not every tick

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """One speculator for one boot of one pod. A restarted pod is another boot, so it is offered everything anew."""

    pod_uid: str
    boot_id: str
    drafter: str
    revision: str | None


@dataclass(slots=True)
class _Refusal:
    at: float
    message: str


@dataclass(slots=True)
class _Loads:
    running: dict[_Offer, asyncio.Task[None]] = field(default_factory=dict)
    refusals: dict[_Offer, _Refusal] = field(default_factory=dict)


class Delivery:
    """Pushes, and says what each pod has acknowledged."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._loads = _Loads()

    async def deliver(
        self, spec: DraftPolicySpec, pods: Iterable[ScrapedPod], *, heads: Iterable[str], now: float
    ) -> tuple[PodAcknowledgement, ...]:
        """`heads`: the drafters of type Head; one that the policy names no speculator for is unloaded."""
        wanted: dict[str, DesiredSpeculator | None] = dict.fromkeys(heads)
        wanted |= {entry.drafter: entry for entry in spec.speculators}
        return tuple(await asyncio.gather(*(self._deliver_one(spec, pod, wanted, now) for pod in pods)))

    async def aclose(self) -> None:
        """Stop offering; a load that a pod has begun goes on there."""
        for task in self._loads.running.values():
            task.cancel()
        await asyncio.gather(*self._loads.running.values(), return_exceptions=True)

    def forget_pods_except(self, uids: Iterable[str]) -> None:
        """Drop what is remembered of pods that are gone."""
        alive = set(uids)
        self._loads.refusals = {
            offer: refusal for offer, refusal in self._loads.refusals.items() if offer.pod_uid in alive
        }

    async def _deliver_one(
        self, spec: DraftPolicySpec, pod: ScrapedPod, wanted: dict[str, DesiredSpeculator | None], now: float
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
        complaints += self._offer_speculators(pod.address, stats, wanted, now)
        return PodAcknowledgement(
            name=pod.address.name,
            uid=pod.address.uid,
            revision=revision,
            speculators=tuple(
                LoadedSpeculator(drafter=drafter.name, revision=drafter.revision, state=drafter.state)
                for drafter in stats.drafters
                if drafter.type is wire.DrafterType.HEAD
            ),
            lowered=lowered,
            message="; ".join(complaints)[:1024] or None,
        )

    def _offer_speculators(
        self, address: PodAddress, stats: wire.EngineStats, wanted: dict[str, DesiredSpeculator | None], now: float
    ) -> list[str]:
        complaints = []
        for drafter in stats.drafters:
            if drafter.name not in wanted:
                continue
            desired = wanted[drafter.name]
            offer = _Offer(
                pod_uid=address.uid,
                boot_id=stats.boot_id,
                drafter=drafter.name,
                revision=None if desired is None else desired.revision,
            )
            if drafter.revision == offer.revision:
                self._loads.refusals.pop(offer, None)
                continue
            refusal = self._loads.refusals.get(offer)
            if refusal is not None and now - refusal.at < OFFER_AGAIN_SECONDS:
                complaints.append(refusal.message)
            elif offer not in self._loads.running:
                self._begin(address, offer, desired, now)
        return complaints

    def _begin(self, address: PodAddress, offer: _Offer, desired: DesiredSpeculator | None, now: float) -> None:
        load = (
            wire.DrafterLoad(revision=None)
            if desired is None
            else wire.DrafterLoad(revision=desired.revision, uri=desired.uri, sha256=desired.sha256)
        )

        async def run() -> None:
            try:
                answer = await self._engines.load_drafter(address, offer.drafter, load)
            except EngineCallError as error:
                logger.warning("speculator %s not loaded: %s", offer.revision, error)
                if error.reason in (CallFailure.REFUSED, CallFailure.STALE):
                    self._loads.refusals[offer] = _Refusal(at=now, message=str(error))
            else:
                if answer.revision != offer.revision:
                    message = f"{offer.drafter} is {answer.state}: {answer.reason or 'it kept ' + str(answer.revision)}"
                    self._loads.refusals[offer] = _Refusal(at=now, message=message)
                logger.info("pod %s: %s serves %s (%s)", address.name, offer.drafter, answer.revision, answer.state)
            finally:
                del self._loads.running[offer]

        self._loads.running[offer] = asyncio.create_task(run(), name=f"load {offer.revision} into {address.name}")
