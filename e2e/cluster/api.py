"""The few questions that bringing a cluster up asks its API server."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """An administrator's view of the API server at a forwarded port. Answers False while the server cannot be asked."""

    url: str
    certificates: Path

    def has_default_account(self) -> bool:
        """Whether pods can be created: admission refuses them until the ServiceAccount `default` is there."""
        answer = self._get("/api/v1/namespaces/default/serviceaccounts/default")
        return answer is not None and answer.status_code == 200

    def is_ready(self) -> bool:
        answer = self._get("/readyz")
        return answer is not None and answer.status_code == 200

    def is_node_ready(self, node: str) -> bool:
        answer = self._get(f"/api/v1/nodes/{node}")
        if answer is None or answer.status_code != 200:
            return False
        conditions = answer.json()["status"].get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _get(self, path: str) -> httpx.Response | None:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        context.load_cert_chain(self.certificates / "admin.crt", self.certificates / "admin.key")
        try:
            with httpx.Client(verify=context, trust_env=False, timeout=5) as client:
                return client.get(self.url + path)
        except httpx.TransportError:
            return None
