"""What the operator and the cluster bring to every child, as one value. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

OPERATOR_POD_NAME = "bowsprit-operator"  # label app.kubernetes.io/name of the operator's own pods


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """`jwks` (JSON text) and `issuer` let a pod check the operator's token; `subject` is whom it then trusts."""

    engine_image: str
    operator_namespace: str
    subject: str
    issuer: str
    jwks: str
    progress_deadline_seconds: int = 600
