"""The only HTTP client of pods: the control port of engines and of training pods, as typed calls.

Decides how long to wait, how many calls run at once, and what kind of failure an answer is. Refuses to know what
the figures mean, which pods exist, and Kubernetes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from bowsprit_policy import wire

_Answer = TypeVar("_Answer", bound=BaseModel)

_NOT_THE_ARTIFACTS_FAULT = frozenset({"Unreadable", "ShadowLost", "DigestMismatch"})
_QUOTED_CHARACTERS = 300  # of a pod's own error text, in our messages


class CallFailure(StrEnum):
    """Why a call to a pod gave no answer.

    Unusable: what it should load is broken, wherever it lies. Passing: the pod can't just now, by its own words.
    """

    UNREACHABLE = "Unreachable"
    TIMEOUT = "Timeout"
    UNAUTHORIZED = "Unauthorized"
    STALE = "StaleRevision"
    REFUSED = "Refused"
    UNUSABLE = "UnusableArtifact"
    PASSING = "Passing"
    BAD_ANSWER = "BadAnswer"
    NO_TOKEN = "NoToken"


class EngineCallError(Exception):
    """A call to a pod failed. The message names the pod, the call and the cause."""

    def __init__(self, message: str, *, reason: CallFailure) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAddress:
    """Where the control port of one pod is. `uid` tells a re-created pod of the same name apart."""

    name: str
    uid: str
    ip: str
    port: int = 8001

    @property
    def origin(self) -> str:
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}"


class ProjectedToken(httpx.Auth):
    """The operator's own projected token, read again for each request: the kubelet renews the file under us."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


class Engines:
    """Calls to pods, at most `concurrency` at once. `token_file` None sends no token (an engine on loopback)."""

    def __init__(
        self,
        *,
        token_file: Path | None,
        timeout_seconds: float = 3.0,
        load_timeout_seconds: float = 120.0,
        concurrency: int = 32,
    ) -> None:
        self._client = httpx.AsyncClient(
            auth=None if token_file is None else ProjectedToken(token_file),
            timeout=httpx.Timeout(timeout_seconds),
            trust_env=False,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._load_timeout_seconds = load_timeout_seconds
        self._slots = asyncio.Semaphore(concurrency)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def stats(self, pod: PodAddress) -> wire.EngineStats:
        return await self._call(pod, "GET", "stats", wire.EngineStats)

    async def profile(self, pod: PodAddress) -> wire.Profile:
        return await self._call(pod, "GET", "profile", wire.Profile)

    async def push_policy(self, pod: PodAddress, table: wire.PolicyTable) -> wire.PolicyStatus:
        """Raises EngineCallError with reason StaleRevision when the pod holds a newer revision."""
        return await self._call(pod, "PUT", "policy", wire.PolicyStatus, body=table)

    async def load_drafter(self, pod: PodAddress, name: str, load: wire.DrafterLoad) -> wire.DrafterStats:
        """Returns once the pod has loaded and self-tested the speculator, which may take a minute."""
        limits = httpx.Timeout(self._load_timeout_seconds, connect=3.0)
        return await self._call(pod, "PUT", f"drafters/{name}", wire.DrafterStats, body=load, limits=limits)

    async def progress(self, pod: PodAddress) -> wire.TrainingProgress:
        return await self._call(pod, "GET", "progress", wire.TrainingProgress)

    async def _call(
        self,
        pod: PodAddress,
        method: str,
        path: str,
        answer: type[_Answer],
        *,
        body: BaseModel | None = None,
        limits: httpx.Timeout | None = None,
    ) -> _Answer:
        what = f"{method} {path} of pod {pod.name} at {pod.ip}:{pod.port}"
        try:
            async with self._slots:
                response = await self._client.request(
                    method,
                    f"{pod.origin}/control/v1/{path}",
                    json=None if body is None else body.model_dump(mode="json", by_alias=True),
                    timeout=limits or self._client.timeout,
                )
        except httpx.TimeoutException as error:
            raise EngineCallError(f"{what}: {type(error).__name__}", reason=CallFailure.TIMEOUT) from error
        except httpx.HTTPError as error:
            raise EngineCallError(f"{what}: {error or type(error).__name__}", reason=CallFailure.UNREACHABLE) from error
        except OSError as error:
            raise EngineCallError(f"{what}: no token to send: {error}", reason=CallFailure.NO_TOKEN) from error
        if response.is_error:
            raise EngineCallError(f"{what}: {_quoted(response)}", reason=_failure(response))
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            message = f"{what}: not a {answer.__name__}: first wrong field {error.errors()[0]['loc']}"
            raise EngineCallError(message, reason=CallFailure.BAD_ANSWER) from error


def _failure(response: httpx.Response) -> CallFailure:
    status = response.status_code
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return CallFailure.UNAUTHORIZED
    if status == httpx.codes.CONFLICT:
        return CallFailure.STALE
    if response.is_server_error or status == httpx.codes.TOO_MANY_REQUESTS:
        return CallFailure.PASSING
    return CallFailure.UNUSABLE if _is_unusable_artifact(response) else CallFailure.REFUSED


def _is_unusable_artifact(response: httpx.Response) -> bool:
    """Broken itself, wherever it lies; not one that this pod can't read, or of another model than this pod's."""
    try:
        error = response.json()["error"]
        return error["type"] == "unusable_artifact" and error["code"] not in _NOT_THE_ARTIFACTS_FAULT
    except (ValueError, KeyError, TypeError):  # not an engine's answer
        return False


def _quoted(response: httpx.Response) -> str:
    text = " ".join(response.text.split())
    return f"HTTP {response.status_code} {text[:_QUOTED_CHARACTERS]}".rstrip()
