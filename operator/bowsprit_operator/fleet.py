"""One scrape of a model's engine pods: what each said, and why one said nothing.

Fetches a pod's profile once per boot (again while it is empty) and remembers it. Decides which pods are asked (Ready
ones); refuses to judge figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from bowsprit_operator.resources import names
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.world.engines import EngineCallError, Engines, PodAddress
from bowsprit_policy.observation import Observation, PodObservation
from bowsprit_policy.wire import EngineStats, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapedPod:
    """One pod in one tick. `stats` None: it gave none, and `failure` says why; its profile may still come later."""

    address: PodAddress
    stats: EngineStats | None = None
    profile: Profile | None = None
    failure: EngineCallError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownProfile:
    boot_id: str
    profile: Profile


def address_of(pod: Pod) -> PodAddress | None:
    """Where a Ready pod's control port is; None for one that isn't, or has no address."""
    if not pod.is_ready or pod.status.pod_ip is None or pod.metadata.uid is None:
        return None
    return PodAddress(name=pod.name, uid=pod.metadata.uid, ip=pod.status.pod_ip, port=names.CONTROL_PORT)


def observation(scraped: Iterable[ScrapedPod]) -> Observation:
    """As the policy looks at it."""
    return Observation(
        pods=tuple(PodObservation(uid=pod.address.uid, stats=pod.stats, profile=pod.profile) for pod in scraped)
    )


class Fleet:
    """Scrapes pods, remembering the profiles of those that still exist."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._profiles: dict[str, _KnownProfile] = {}

    async def scrape(self, addresses: Iterable[PodAddress]) -> tuple[ScrapedPod, ...]:
        """All of them at once, each within its own timeout. Never raises on a pod's account."""
        return tuple(await asyncio.gather(*(self._scrape_one(address) for address in addresses)))

    def forget_pods_except(self, uids: Iterable[str]) -> None:
        """Drop what is remembered of pods that are gone."""
        alive = set(uids)
        self._profiles = {uid: known for uid, known in self._profiles.items() if uid in alive}

    async def _scrape_one(self, address: PodAddress) -> ScrapedPod:
        try:
            stats = await self._engines.stats(address)
        except EngineCallError as error:
            return ScrapedPod(address=address, failure=error)
        known = self._profiles.get(address.uid)
        # An empty one was measured while others kept the processors busy: the pod may know more later.
        if known is None or known.boot_id != stats.boot_id or not known.profile.cells:
            try:
                known = _KnownProfile(boot_id=stats.boot_id, profile=await self._engines.profile(address))
            except EngineCallError as error:
                return ScrapedPod(address=address, stats=stats, failure=error)
            self._profiles[address.uid] = known
        return ScrapedPod(address=address, stats=stats, profile=known.profile)
