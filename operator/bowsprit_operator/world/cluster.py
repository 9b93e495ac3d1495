"""The only Kubernetes client of the operator: reads, server-side applies, status writes, deletes.

Every write of ours is an apply by a named field manager, and a status write is skipped when nothing differs. Refuses
to retry (the work queue does), to cache, and to know why something is written. Kinds are given, so that nothing has to
be discovered: discovery would keep a cache file and read all API groups.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.resource import Resource as ApiResource
from pydantic import ValidationError

from bowsprit_operator.resources import labels as label_names
from bowsprit_operator.resources.actions import Action, Apply
from bowsprit_operator.resources.base import Resource, ResourceT, ResourceValue
from bowsprit_operator.resources.kinds import Kind

FIELD_MANAGER = "bowsprit"
_TIMEOUT_SECONDS = 20.0
_ACCEPTED = "application/json, application/jwk-set+json"  # the second is all that /openid/v1/jwks speaks

logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The API server said no, or nothing. `status` is the HTTP status, None when there was no answer."""

    def __init__(self, message: str, *, status: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ConflictError(ClusterError):
    """409: the object exists already, or isn't at the resourceVersion that was asked for."""


class RefusedError(ClusterError):
    """400, 403 or 422: trying the same again cannot help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """What a pod needs to check ServiceAccount tokens of this cluster. `jwks` is JSON text."""

    issuer: str
    jwks: str


class Cluster:
    """One connection to one API server. Use `connect()`. `namespaces`: all that it looks at; empty means every one."""

    def __init__(self, api: kubernetes_client.ApiClient, *, namespaces: tuple[str, ...] = ()) -> None:
        self.api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._dynamic = DynamicClient(api)

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """None when there is no such object."""
        try:
            return await self._request("get", _path(kind, namespace, name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], ...]:
        """All objects of a kind; of every namespace that we look at when None. Items carry no apiVersion and kind."""
        selector = label_names.selector(labels) if labels else None
        found: list[dict[str, Any]] = []
        for place in self._namespaces if namespace is None else (namespace,):
            answer = await self._request("get", _path(kind, place, None), label_selector=selector)
            found += answer.get("items") or ()
        return tuple(found)

    async def read(self, type_: type[ResourceT], namespace: str, name: str) -> ResourceT | None:
        """One object as a typed value, None when there is no such object."""
        found = await self.get(type_.KIND, namespace, name)
        return None if found is None else type_.model_validate(found)

    async def read_all(
        self, type_: type[ResourceT], namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> tuple[ResourceT, ...]:
        """All objects as typed values. One that a neighbouring version wrote beyond our reading is left out, logged."""
        values = []
        for item in await self.list(type_.KIND, namespace, labels=labels):
            try:
                values.append(type_.model_validate(item))
            except ValidationError as error:
                metadata = item.get("metadata", {})
                where = f"{type_.KIND.kind} {metadata.get('namespace')}/{metadata.get('name')}"
                logger.warning("%s left out, it can't be read: %s", where, error.errors()[0])
        return tuple(values)

    async def apply(
        self,
        kind: Kind,
        manifest: Mapping[str, Any],
        *,
        manager: str = FIELD_MANAGER,
        resource_version: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply, taking over conflicting fields.

        Creates the object if it isn't there, except with `resource_version`: then ConflictError is raised unless the
        stored object is at that version.
        """
        body = dict(manifest) | {"apiVersion": kind.api_version, "kind": kind.kind}
        if resource_version is not None:
            body["metadata"] = dict(body["metadata"]) | {"resourceVersion": resource_version}
        metadata = body["metadata"]
        path = _path(kind, metadata["namespace"], metadata["name"])
        return await self._apply(path, body, manager)

    async def apply_status(self, resource: Resource, status: ResourceValue, *, manager: str = FIELD_MANAGER) -> bool:
        """Write the whole status, unless `resource` as it was read has it already. True when it was written."""
        if getattr(resource, "status", None) == status:
            return False
        kind = resource.KIND
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": resource.name, "namespace": resource.namespace},
            "status": status.manifest(),
        }
        if resource.metadata.uid is not None:
            body["metadata"]["uid"] = resource.metadata.uid  # type: ignore[index]
        await self._apply(_path(kind, resource.namespace, resource.name) + "/status", body, manager)
        return True

    async def create(self, kind: Kind, manifest: Mapping[str, Any], *, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        """Raises ConflictError when the object exists already."""
        body = dict(manifest) | {"apiVersion": kind.api_version, "kind": kind.kind}
        path = _path(kind, body["metadata"]["namespace"], None)
        return await self._request("post", path, body=body, field_manager=manager)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, propagation: str = "Background"
    ) -> bool:
        """False when there was no such object (or, given a uid, another one of that name)."""
        options: dict[str, Any] = {"propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._request("delete", _path(kind, namespace, name), body=options)
        except ClusterError as error:
            if error.status == 404 or (uid is not None and error.status == 409):
                return False
            raise
        return True

    async def carry_out(self, action: Action) -> None:
        """Do what a plan asks."""
        if isinstance(action, Apply):
            await self.apply(action.kind, action.manifest)
        else:
            await self.delete(action.kind, action.namespace, action.name, uid=action.uid)

    async def signing_keys(self) -> SigningKeys:
        """The issuer and public keys of this cluster's ServiceAccount tokens, from the API server itself."""
        discovery = await self._request("get", "/.well-known/openid-configuration")
        jwks = await self._text("/openid/v1/jwks")
        return SigningKeys(issuer=str(discovery["issuer"]), jwks=jwks)

    async def _apply(self, path: str, body: Mapping[str, Any], manager: str) -> dict[str, Any]:
        return await self._request(
            "patch",
            path,
            body=body,
            content_type="application/apply-patch+yaml",
            field_manager=manager,
            force_conflicts="true",
        )

    async def _request(self, method: str, path: str, **parameters: Any) -> dict[str, Any]:
        response = await self._raw(method, path, **parameters)
        answer: dict[str, Any] = await response.json(content_type=None)
        return answer

    async def _text(self, path: str) -> str:
        response = await self._raw("get", path)
        return str(await response.text())

    async def _raw(self, method: str, path: str, **parameters: Any) -> aiohttp.ClientResponse:
        what = f"{method.upper()} {path}"
        # Fresh containers: the dynamic client's own defaults are shared between calls.
        parameters |= {"query_params": [], "header_params": {"Accept": _ACCEPTED}, "serialize": False}
        try:
            response: aiohttp.ClientResponse = await self._dynamic.request(
                method, path, _request_timeout=_TIMEOUT_SECONDS, **parameters
            )
        except ApiException as error:
            raise _cluster_error(what, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(f"{what}: no answer: {error or type(error).__name__}") from error
        return response


@asynccontextmanager
async def connect(kubeconfig: Path | None = None, *, namespaces: tuple[str, ...] = ()) -> AsyncIterator[Cluster]:
    """From a kubeconfig file, or from the pod's own ServiceAccount when None. Never from the user's default one."""
    configuration = kubernetes_client.Configuration()
    if kubeconfig is None:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    else:
        await kubernetes_config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    configuration.client_session_kwargs = {"trust_env": False}
    async with kubernetes_client.ApiClient(configuration) as api:
        yield Cluster(api, namespaces=namespaces)


def _path(kind: Kind, namespace: str | None, name: str | None) -> str:
    resource = ApiResource(
        prefix="apis" if kind.group else "api",
        group=kind.group,
        api_version=kind.version,
        kind=kind.kind,
        name=kind.plural,
        namespaced=True,
    )
    return str(resource.path(name=name, namespace=namespace))


def _cluster_error(what: str, error: ApiException) -> ClusterError:
    message = f"{what}: {error.status} {_summary(error)}"
    match error.status:
        case 409:
            return ConflictError(message, status=error.status, reason=str(error.reason))
        case 400 | 403 | 422:
            return RefusedError(message, status=error.status, reason=str(error.reason))
        case _:
            return ClusterError(message, status=error.status, reason=str(error.reason))


def _summary(error: ApiException) -> str:
    """The API server's own message, out of the Status object that it answers with."""
    try:
        status = json.loads(error.body or "null")
    except ValueError:
        return str(error.reason)
    return str(status.get("message") or error.reason) if isinstance(status, dict) else str(error.reason)
