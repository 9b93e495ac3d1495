"""Loading speculators into pods: which loads run, which were refused, and when a refused one is offered again.

Loading takes seconds to a minute, so it runs beside the ticks; the next scrape shows how it went. Refuses to know what
a pod should hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from bowsprit_operator.resources.draft_policy import DesiredSpeculator
from bowsprit_operator.world.engines import CallFailure, EngineCallError, Engines, PodAddress
from bowsprit_policy.wire import DrafterLoad, DrafterRole, DrafterStats

OFFER_AGAIN_SECONDS = 300.0  # a pod that refused a speculator is offered it again, not every tick
TRY_AGAIN_SECONDS = 60.0  # one that couldn't take it just then

# The pod has answered; else it is offered in the next tick.
_TOLD = frozenset({CallFailure.REFUSED, CallFailure.STALE, CallFailure.UNUSABLE, CallFailure.PASSING})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One speculator, in one role, for one boot of one pod. A restarted pod is another boot: it is offered all anew."""

    address: PodAddress
    boot_id: str
    drafter: str
    load: DrafterLoad

    @classmethod
    def of(
        cls,
        address: PodAddress,
        boot_id: str,
        drafter: str,
        desired: DesiredSpeculator | None,
        role: DrafterRole,
    ) -> Offer:
        """`desired` None: that nothing is loaded in this role."""
        load = DrafterLoad(revision=None, role=role)
        if desired is not None:
            load = DrafterLoad(revision=desired.revision, uri=desired.uri, sha256=desired.sha256, role=role)
        return cls(address=address, boot_id=boot_id, drafter=drafter, load=load)

    @property
    def revision(self) -> str | None:
        return self.load.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """That a pod didn't take what it was offered, and why. `at`: seconds since the epoch."""

    at: float
    message: str
    reason: CallFailure

    def is_over(self, now: float) -> bool:
        """It is time to offer it again."""
        wait = TRY_AGAIN_SECONDS if self.reason is CallFailure.PASSING else OFFER_AGAIN_SECONDS
        return now - self.at >= wait


class Loads:
    """The loads of all pods."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._running: dict[Offer, asyncio.Task[None]] = {}
        self._refusals: dict[Offer, Refusal] = {}
        self._just_loaded: set[Offer] = set()  # the scrape behind the next offer may be older than the pod's answer

    def offer(self, offer: Offer, now: float) -> Refusal | None:
        """Begin it, unless it runs already or was refused lately. Returns that refusal, None if there is none."""
        refusal = self._refusals.get(offer)
        if refusal is not None and not refusal.is_over(now):
            return refusal
        if offer in self._just_loaded:
            self._just_loaded.discard(offer)
        elif offer not in self._running:
            name = f"load {offer.revision} into {offer.address.name}"
            self._running[offer] = asyncio.create_task(self._run(offer, now), name=name)
        return None

    def accept(self, offer: Offer) -> None:
        """The pod holds it: an earlier refusal is void."""
        self._refusals.pop(offer, None)
        self._just_loaded.discard(offer)

    async def aclose(self) -> None:
        """Stop offering; a load that a pod has begun goes on there."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def forget_pods_except(self, uids: Iterable[str]) -> None:
        """Drop what is remembered of pods that are gone."""
        alive = set(uids)
        self._refusals = {offer: refusal for offer, refusal in self._refusals.items() if offer.address.uid in alive}
        self._just_loaded = {offer for offer in self._just_loaded if offer.address.uid in alive}

    async def _run(self, offer: Offer, now: float) -> None:
        what = f"{offer.drafter} {offer.load.role} {offer.revision}"
        try:
            answer = await self._engines.load_drafter(offer.address, offer.drafter, offer.load)
        except EngineCallError as error:
            logger.warning("speculator %s not loaded: %s", what, error)
            if error.reason in _TOLD:
                self._refusals[offer] = Refusal(at=now, message=str(error), reason=error.reason)
        else:
            kept = _held(answer, offer.load.role)
            if kept == offer.revision:
                self._just_loaded.add(offer)
            else:
                message = f"{offer.drafter} is {answer.state}: {answer.reason or f'it kept {kept}'}"
                self._refusals[offer] = Refusal(at=now, message=message, reason=CallFailure.REFUSED)
            logger.info("pod %s: %s is now %s (%s)", offer.address.name, what, kept, answer.state)
        finally:
            del self._running[offer]


def _held(answer: DrafterStats, role: DrafterRole) -> str | None:
    if role is DrafterRole.SERVING:
        return answer.revision
    return None if answer.shadow is None else answer.shadow.candidate.revision
