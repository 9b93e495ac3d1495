"""The watches: kopf tells that something about a model may have changed, and nothing else is taken from it.

kopf runs in a thread of its own with a loop of its own, since on its way out it cancels every task of its loop. It
keeps no state in objects, adds no finalizers and posts no events. Refuses to look at what changed: a key goes out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf
from kubernetes.aio.client import ApiClient

from bowsprit_operator.reconcile import ObjectKey
from bowsprit_operator.resources import kinds, labels
from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.settings import OperatorSettings

# Watched by our label only: everything else of these kinds is none of our business.
_LABELLED = (
    kinds.DEPLOYMENT,
    kinds.POD,
    kinds.JOB,
    kinds.SERVICE,
    kinds.SERVICE_ACCOUNT,
    kinds.CONFIG_MAP,
    kinds.NETWORK_POLICY,
    kinds.POD_DISRUPTION_BUDGET,
)
_OURS = (kinds.SPECULATIVE_MODEL, kinds.DRAFT_POLICY, kinds.SPECULATOR_TRAINING, kinds.SPECULATOR_REVISION)
WATCHED = (*_OURS, *_LABELLED)
_TOKEN_LIFE = timedelta(minutes=10)  # the kubelet renews the mounted token well before it ends


def key_of(kind: Kind, body: Mapping[str, Any]) -> ObjectKey | None:
    """The model that an object is about, None when it is about none."""
    metadata = body.get("metadata") or {}
    namespace = metadata.get("namespace")
    if kind in (kinds.SPECULATIVE_MODEL, kinds.DRAFT_POLICY):
        name = metadata.get("name")
    elif kind in (kinds.SPECULATOR_TRAINING, kinds.SPECULATOR_REVISION):
        name = (body.get("spec") or {}).get("modelName")
    else:
        name = (metadata.get("labels") or {}).get(labels.MODEL)
    return ObjectKey(namespace=str(namespace), name=str(name)) if namespace and name else None


@dataclass(slots=True)
class WatchAges:
    """When each watch was opened last. kopf reads its selectors exactly then, so the mapping below notes the time."""

    _opened_at: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_plurals(), time.monotonic()))

    def note(self, plural: str) -> None:
        if plural in self._opened_at:
            self._opened_at[plural] = time.monotonic()

    def ages(self) -> dict[str, float]:
        """Seconds by plural; a watch that was never opened is as old as this process."""
        now = time.monotonic()
        return {plural: now - opened for plural, opened in self._opened_at.items()}


def _plurals() -> list[str]:
    return [kind.plural for kind in WATCHED]


class _NotingSelectors(dict[Any, str]):
    """Label selectors for kopf's settings: it calls `collect` each time that it lists or opens a watch."""

    def __init__(self, ages: WatchAges) -> None:
        super().__init__()
        self._ages = ages
        self._selectors = {(kind.group, kind.plural): labels.MODEL for kind in _LABELLED}

    def collect(self, resource: Any) -> list[str]:
        self._ages.note(resource.plural)
        selector = self._selectors.get((resource.group, resource.plural))
        return [] if selector is None else [selector]


class Watcher:
    """Runs kopf. `on_key` is called in the event loop that `run` was called in."""

    def __init__(self, api: ApiClient, settings: OperatorSettings, on_key: Callable[[ObjectKey], None]) -> None:
        self._api = api
        self._settings = settings
        self._on_key = on_key
        self.ages = WatchAges()

    async def run(self) -> None:
        """Until cancelled. Returns or raises only when kopf has ended, which the process must not survive."""
        loop = asyncio.get_running_loop()
        stop, ended = threading.Event(), loop.create_future()
        thread = threading.Thread(target=self._run_kopf, args=(loop, stop, ended), name="watches", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            stop.set()
            await asyncio.wait({ended}, timeout=5)

    def _run_kopf(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Future[None]) -> None:
        failure: BaseException | None = None
        try:
            kopf.run(
                registry=self._registry(loop),
                settings=self._kopf_settings(),
                stop_flag=stop,
                # Without one kopf asks for the user's name, and user 65532 has none in an image.
                identity=self._settings.identity,
                standalone=True,
                clusterwide=not self._settings.watch_namespaces,
                namespaces=self._settings.watch_namespaces,
            )
        except Exception as error:
            failure = error

        def report() -> None:
            if not ended.done():
                if failure is None:
                    ended.set_result(None)
                else:
                    ended.set_exception(failure)

        if not loop.is_closed():
            loop.call_soon_threadsafe(report)

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind in WATCHED:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"watch-{kind.plural}")(
                self._handler(kind, loop)
            )
        return registry

    def _handler(self, kind: Kind, loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
        async def on_event(body: Mapping[str, Any], **_rest: Any) -> None:
            key = key_of(kind, body)
            if key is not None:
                loop.call_soon_threadsafe(self._on_key, key)

        return on_event

    def _login(self, **kwargs: Any) -> Any:
        """The same API server and rights as the operator's own client. kopf asks again when a login expires."""
        configuration = self._api.configuration
        if self._settings.kubeconfig is None:
            mounted = kopf.login_with_service_account(**kwargs)
            if mounted is None:
                raise kopf.PermanentError("no ServiceAccount token is mounted")
            # kopf asks for kubernetes.default.svc, which needs cluster DNS; the address is in the environment too.
            expiration = datetime.now(UTC) + _TOKEN_LIFE
            return dataclasses.replace(mounted, server=configuration.host, expiration=expiration)
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            token=(configuration.api_key or {}).get("BearerToken", "").removeprefix("Bearer ") or None,
        )

    def _kopf_settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.watching.server_timeout = int(self._settings.watch_server_timeout_seconds)
        settings.watching.client_timeout = self._settings.watch_server_timeout_seconds + 30
        settings.watching.connect_timeout = 10
        settings.watching.label_selectors = _NotingSelectors(self.ages)
        settings.networking.request_timeout = 30
        settings.queueing.idle_timeout = 1.0
        return settings
