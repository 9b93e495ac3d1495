"""What tests and the demo ask Kubernetes, in the words of kubectl, as JSON; and how they wait for it.

Decides nothing about Bowsprit. Waiting is on a state of the cluster, never for a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from cluster.driver import Cluster
from cluster.errors import ClusterError

Json = dict[str, Any]
_Value = TypeVar("_Value")

_POLL_SECONDS = 0.5


class Kube:
    """One namespace of one cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def run(self, *arguments: str, input: str | None = None) -> str:
        """kubectl in this namespace. Raises ClusterError with its complaint."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, input=input)

    def apply(self, *manifests: Json) -> str:
        """As a user would: server-side, and refused manifests raise ClusterError with the API server's words."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        return self.run("apply", "--server-side", "-f", "-", input=json.dumps(listed))

    def get(self, kind: str, name: str) -> Json | None:
        """None when there is no such object."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output=json")
        return None if not text.strip() else dict(json.loads(text))

    def read(self, kind: str, name: str) -> Json:
        """Raises ClusterError when there is no such object."""
        found = self.get(kind, name)
        if found is None:
            raise ClusterError(f"{kind}/{name} is not in namespace {self.namespace}")
        return found

    def list(self, kind: str, *, labels: str | None = None) -> list[Json]:
        selector = [] if labels is None else [f"--selector={labels}"]
        return list(json.loads(self.run("get", kind, *selector, "--output=json"))["items"])

    def wait(self, what: str, condition: str, *, seconds: int) -> None:
        """`kubectl wait --for=…`. Raises ClusterError when the time is over."""
        self.run("wait", what, f"--for={condition}", f"--timeout={seconds}s")

    def delete(self, kind: str, name: str, *options: str) -> None:
        self.run("delete", kind, name, "--ignore-not-found", *options)


def condition(found: Json | None, type_: str) -> Json:
    """A condition of an object's status; {} while it isn't there."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    return next((dict(entry) for entry in conditions if entry["type"] == type_), {})


def is_true(found: Json | None, type_: str) -> bool:
    return condition(found, type_).get("status") == "True"


async def eventually(
    look: Callable[[], _Value | Awaitable[_Value | None] | None], *, seconds: float, what: str
) -> _Value:
    """The first answer that isn't None or False. Raises TimeoutError saying what never came, and the last answer."""
    ends = time.monotonic() + seconds
    while True:
        answer = look()
        found = await answer if isinstance(answer, Awaitable) else answer
        if found is not None and found is not False:
            return found
        if time.monotonic() > ends:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)
