"""Who acts: one replica at a time, by a Lease. Wraps kubernetes.aio.leaderelection, which decides by its own clock.

Adds what it lacks: an API server that doesn't answer is a failed try and not the end; no call outlasts the lease; what
runs while leading has ended before the next election; the Lease is given back on the way out, so that another replica
takes over at once. Refuses to know what leading means.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import aiohttp
from kubernetes.aio.client import ApiClient, V1Lease, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from bowsprit_operator.settings import OperatorSettings

LEASE_NAME = "bowsprit-operator"
_RELEASE_TRIES = 3
_CONFLICT = 409

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class PatientLeaseLock(LeaseLock):  # type: ignore[misc]
    """A LeaseLock for which no answer in time is "not now"."""

    def __init__(self, *, namespace: str, identity: str, api: ApiClient, timeout_seconds: float) -> None:
        super().__init__(LEASE_NAME, namespace, identity, api)
        self._timeout_seconds = timeout_seconds

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        return await self._in_time(super().get(name, namespace), lambda cause: (False, ApiException(reason=cause)))

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        return await self._in_time(self._create(name, namespace, election_record), lambda _cause: False)

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        return await self._in_time(super().update(name, namespace, updated_record), lambda _cause: False)

    async def release(self) -> None:
        """Give the Lease back if it is ours. Best effort: without an answer it expires by itself."""
        for _ in range(_RELEASE_TRIES):  # a renewal that was under way may win once
            if await self._in_time(self._release(), lambda _cause: True):
                return
        logger.warning("the Lease was not given back, it expires by itself")

    async def _release(self) -> bool:
        """False when somebody wrote the Lease in between."""
        try:
            lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
            if lease.spec.holder_identity == self.identity:
                lease.spec.holder_identity = None
                await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        except ApiException as error:
            return bool(error.status != _CONFLICT)
        return True

    async def _create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """The library's own (37.0.2) passes pretty=True, which its validation refuses."""
        body = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            logger.info("the Lease was not created, somebody else may have: %s", error.reason)
            return False
        return True

    async def _in_time(self, call: Coroutine[Any, Any, _Answer], otherwise: Callable[[str], _Answer]) -> _Answer:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await call
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return otherwise(f"no answer: {error or type(error).__name__}")


async def act_while_leading(
    api: ApiClient,
    settings: OperatorSettings,
    act: Callable[[], Awaitable[None]],
    *,
    on_change: Callable[[bool], None],
) -> None:
    """Until cancelled: wait for the Lease, run `act` while holding it, and again. An error of `act` is raised."""
    lock = PatientLeaseLock(
        namespace=settings.namespace,
        identity=settings.identity,
        api=api,
        timeout_seconds=(settings.lease_seconds - settings.renew_seconds) / 2,
    )
    try:
        while True:
            election = _election(lock, settings)
            await election.acquire()
            logger.info("leading as %s", settings.identity)
            on_change(True)
            try:
                await _until_lost(election, act)
            finally:
                on_change(False)
            logger.warning("no longer leading: the Lease could not be renewed in %.0f s", settings.renew_seconds)
    finally:
        await lock.release()


async def _until_lost(election: LeaderElection, act: Callable[[], Awaitable[None]]) -> None:
    acting = asyncio.ensure_future(act())
    renewing = asyncio.ensure_future(election.renew_loop())
    try:
        await asyncio.wait({acting, renewing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        renewing.cancel()
        if not acting.done():
            acting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        with contextlib.suppress(asyncio.CancelledError):
            await acting


def _election(lock: PatientLeaseLock, settings: OperatorSettings) -> LeaderElection:
    async def unused() -> None:
        """The library's own run() isn't used: it doesn't wait for the end of what it cancels."""

    return LeaderElection(
        Config(
            lock,
            lease_duration=settings.lease_seconds,
            renew_deadline=settings.renew_seconds,
            retry_period=settings.retry_seconds,
            onstarted_leading=unused,
            onstopped_leading=unused,
        )
    )
