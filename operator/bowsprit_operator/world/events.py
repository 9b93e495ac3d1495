"""Kubernetes Events: what happened to an object, for `kubectl describe` and `kubectl events`.

Decides what is the same Event again (the same words about the same object: it is counted in its series) and how many
an object may have (a bucket that refills slowly, as client-go's recorder has). An Event is worth nothing more than a
line in a log: one that can't be written is dropped, and whoever had something to tell goes on. Refuses to know what is
worth telling.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bowsprit_operator.resources.base import Resource
from bowsprit_operator.resources.happenings import Happening
from bowsprit_operator.resources.kinds import EVENT
from bowsprit_operator.world.cluster import Cluster, ClusterError

FIELD_MANAGER = "bowsprit-events"
CONTROLLER = "bowsprit.dev/operator"
SAME_AGAIN_SECONDS = 600.0  # after a pause of so long the same words are another Event
BURST = 20  # Events of one object at once …
REFILL_SECONDS = 60.0  # … and one more each minute
MAX_NOTE_CHARACTERS = 1024  # the API's limit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """The same words about the same object."""

    uid: str
    related_uid: str
    happening: Happening


@dataclass(slots=True, kw_only=True)
class _Told:
    """An Event that exists: its manifest as first written, and how often it has happened."""

    manifest: dict[str, Any]
    count: int
    last: float


@dataclass(slots=True, kw_only=True)
class _Bucket:
    left: float
    filled_at: float


class Events:
    """`record` what happens. `clock`: seconds since the epoch."""

    def __init__(self, cluster: Cluster, *, instance: str, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._instance = instance
        self._clock = clock
        self._told: dict[_Identity, _Told] = {}
        self._buckets: dict[str, _Bucket] = {}

    async def record(self, regarding: Resource, happening: Happening, *, related: Resource | None = None) -> None:
        """Tell it, unless this object has had too many lately. Never raises on the API server's account."""
        now = self._clock()
        self._forget_before(now - SAME_AGAIN_SECONDS)
        uid = regarding.metadata.uid or ""
        if not self._may_tell(uid, now):
            logger.info(
                "no Event of %s/%s (%s): too many lately", regarding.namespace, regarding.name, happening.reason
            )
            return
        related_uid = "" if related is None else related.metadata.uid or ""
        identity = _Identity(uid=uid, related_uid=related_uid, happening=happening)
        told = self._told.get(identity)
        if told is None:
            told = _Told(manifest=self._manifest(regarding, happening, related, now), count=1, last=now)
        else:
            told = _Told(manifest=told.manifest, count=told.count + 1, last=now)
        series = {"series": {"count": told.count, "lastObservedTime": _micro_time(now)}} if told.count > 1 else {}
        try:
            await self._cluster.apply(EVENT, told.manifest | series, manager=FIELD_MANAGER)
        except ClusterError as error:
            logger.warning("no Event of %s/%s (%s): %s", regarding.namespace, regarding.name, happening.reason, error)
            return
        self._told[identity] = told

    def _manifest(
        self, regarding: Resource, happening: Happening, related: Resource | None, now: float
    ) -> dict[str, Any]:
        manifest = {
            # Another object of that name, or another term of leading, must not meet this Event.
            "metadata": {
                "name": f"{regarding.name}.{uuid.uuid4().hex[:16]}",
                "namespace": regarding.namespace,
            },
            "eventTime": _micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "regarding": _reference(regarding),
            "reason": str(happening.reason),
            "action": str(happening.action),
            "note": happening.note[:MAX_NOTE_CHARACTERS],
            "type": "Warning" if happening.is_warning else "Normal",
        }
        return manifest if related is None else manifest | {"related": _reference(related)}

    def _may_tell(self, uid: str, now: float) -> bool:
        bucket = self._buckets.setdefault(uid, _Bucket(left=BURST, filled_at=now))
        bucket.left = min(BURST, bucket.left + (now - bucket.filled_at) / REFILL_SECONDS)
        bucket.filled_at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def _forget_before(self, then: float) -> None:
        self._told = {identity: told for identity, told in self._told.items() if told.last >= then}
        full_again = then + SAME_AGAIN_SECONDS - BURST * REFILL_SECONDS
        self._buckets = {uid: bucket for uid, bucket in self._buckets.items() if bucket.filled_at >= full_again}


def _reference(resource: Resource) -> dict[str, str]:
    reference = {
        "apiVersion": resource.KIND.api_version,
        "kind": resource.KIND.kind,
        "namespace": resource.namespace,
        "name": resource.name,
    }
    return reference if resource.metadata.uid is None else reference | {"uid": resource.metadata.uid}


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
