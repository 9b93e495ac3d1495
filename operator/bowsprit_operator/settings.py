"""The operator's own settings, from environment variables BOWSPRIT_OPERATOR_*. Resolved once, at start."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """Seconds are seconds of wall time."""

    model_config = SettingsConfigDict(env_prefix="BOWSPRIT_OPERATOR_", frozen=True)

    engine_image: str = Field(
        default="localhost/bowsprit-engine:dev", description="Image of engines whose spec names none."
    )
    namespace: str = Field(default="bowsprit-system", description="Where the operator itself runs; holds its Lease.")
    service_account: str = Field(default="bowsprit-operator", description="The subject that engines trust.")
    watch_namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to watch (JSON list); empty: all.")
    identity: str = Field(default_factory=socket.gethostname, description="This replica's name in the Lease.")
    tick_seconds: float = Field(default=15.0, gt=0, description="Control loop and learning loop.")
    resync_seconds: float = Field(default=300.0, gt=0, description="Every model is reconciled at least this often.")
    workers: int = Field(default=4, ge=1, description="Models reconciled at once.")
    figures_seconds: float = Field(
        default=60.0, ge=0, description="Least time between two writes of status.speculation for figures alone."
    )
    progress_deadline_seconds: int = Field(default=600, gt=0, description="Engines not ready by then: Stalled.")
    watch_server_timeout_seconds: float = Field(default=60.0, gt=0, description="A watch is opened anew after it.")
    lease_seconds: int = Field(default=15, ge=3, description="A leader that is silent for so long is replaced.")
    renew_seconds: int = Field(default=10, ge=2, description="A leader that can't renew for so long stops acting.")
    retry_seconds: int = Field(default=2, ge=1, description="Between two tries to take or renew the Lease.")
    health_host: str = "0.0.0.0"
    health_port: int = Field(default=8080, ge=0, description="/healthz, /readyz and /metrics; 0 takes any free port.")
    engine_token_file: Path | None = Field(
        default=Path("/var/run/secrets/bowsprit/engine-token/token"),
        description="Projected token, audience bowsprit-engine; None calls engines without one.",
    )
    engine_timeout_seconds: float = Field(default=3.0, gt=0)
    kubeconfig: Path | None = Field(default=None, description="Outside a cluster; None: the pod's ServiceAccount.")
    training_threads: int = Field(default=1, ge=1)
    log_level: str = "INFO"

    @property
    def engine_subject(self) -> str:
        """Whom engines trust: `sub` of the operator's token."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"
