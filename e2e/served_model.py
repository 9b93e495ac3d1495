"""A SpeculativeModel that is Ready, as tests use it: its OpenAI URL, its objects, its pods.

Refuses to know what is asked of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import openai

from kube import Json, Kube, is_true
from traffic import client_of

READY_SECONDS = 240
ENGINE_SELECTOR = "app.kubernetes.io/component=engine"
CONTROL_PORT = 8001
SERVICE_PORT = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """`port` of 127.0.0.1 leads to its Service."""

    kube: Kube
    name: str
    port: int

    @classmethod
    def when_ready(cls, kube: Kube, name: str, *, seconds: int = READY_SECONDS) -> ServedModel:
        """Raises ClusterError when it isn't Ready in time."""
        kube.wait(f"smodel/{name}", "condition=Ready", seconds=seconds)
        forward = kube.cluster.forward_service(kube.namespace, name, SERVICE_PORT, is_persistent=True)
        model = cls(kube=kube, name=name, port=forward.port)
        model.wait_for_the_network(seconds=30)
        return model

    def wait_for_the_network(self, *, seconds: float) -> None:
        """A Ready pod is behind its Service once kube-proxy has heard of it. Raises the last TransportError."""
        transport = httpx.HTTPTransport(retries=0, trust_env=False)
        ends = time.monotonic() + seconds
        with httpx.Client(transport=transport, base_url=self.url, timeout=5) as client:
            while True:
                try:
                    client.get("/v1/models").raise_for_status()
                    return
                except httpx.TransportError:
                    if time.monotonic() > ends:
                        raise
                    time.sleep(0.2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        client = client_of(self.url)
        try:
            yield client
        finally:
            await client.close()

    @property
    def resource(self) -> Json:
        """The SpeculativeModel as it is now."""
        return self.kube.read("smodel", self.name)

    @property
    def policy(self) -> Json:
        """Its DraftPolicy. Raises ClusterError before there is one."""
        return self.kube.read("dpol", self.name)

    @property
    def pods(self) -> list[Json]:
        """Its engine pods that are Ready and not going away."""
        found = self.kube.list("pods", labels=f"bowsprit.dev/model={self.name},{ENGINE_SELECTOR}")
        return [pod for pod in found if is_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]]

    def has_everybody_acknowledged(self) -> bool:
        """Whether every Ready pod executes the DraftPolicy's revision."""
        policy = self.kube.get("dpol", self.name)
        if policy is None:
            return False
        executed = {pod["uid"]: pod.get("revision") for pod in policy.get("status", {}).get("pods", [])}
        uids = [pod["metadata"]["uid"] for pod in self.pods]
        return bool(uids) and all(executed.get(uid) == policy["spec"]["revision"] for uid in uids)

    def serves(self, revision: str) -> bool:
        """Whether every Ready pod has loaded this speculator."""
        policy = self.kube.get("dpol", self.name) or {}
        loaded = {
            pod["uid"]: [entry.get("revision") for entry in pod.get("speculators", [])]
            for pod in policy.get("status", {}).get("pods", [])
        }
        uids = [pod["metadata"]["uid"] for pod in self.pods]
        return bool(uids) and all(revision in loaded.get(uid, []) for uid in uids)

    def shadows(self, revision: str) -> bool:
        """Whether every Ready pod scores this candidate in its shadow."""
        policy = self.kube.get("dpol", self.name) or {}
        scoring = {
            pod["uid"]: [
                entry["shadow"]["revision"]
                for entry in pod.get("speculators", [])
                if entry.get("shadow", {}).get("state") == "Scoring"
            ]
            for pod in policy.get("status", {}).get("pods", [])
        }
        uids = [pod["metadata"]["uid"] for pod in self.pods]
        return bool(uids) and all(revision in scoring.get(uid, []) for uid in uids)
