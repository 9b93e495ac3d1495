"""The part of Kubernetes' own objects that decisions read: pods, Deployments, Jobs, as typed values."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from bowsprit_operator.resources.base import Resource, ResourceValue
from bowsprit_operator.resources.kinds import DEPLOYMENT, JOB, POD, Kind


class NativeCondition(ResourceValue):
    """A condition of a Pod, Deployment or Job."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Waiting(ResourceValue):
    reason: str = ""
    message: str = ""


class Terminated(ResourceValue):
    """`message` is the termination message: what the container wrote, or the end of its log."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""


class ContainerState(ResourceValue):
    waiting: Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: Terminated | None = None


class ContainerStatus(ResourceValue):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodSpec(ResourceValue):
    node_name: str | None = None


class PodStatus(ResourceValue):
    phase: str = "Unknown"
    reason: str = ""
    message: str = ""
    pod_ip: str | None = Field(default=None, alias="podIP")
    conditions: tuple[NativeCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Resource):
    """A pod of ours: one container that matters."""

    KIND: ClassVar[Kind] = POD

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_ready(self) -> bool:
        return self.is_alive and any(
            condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions
        )

    @property
    def is_alive(self) -> bool:
        """Not finished and not going away."""
        return self.metadata.deletion_timestamp is None and self.status.phase not in ("Succeeded", "Failed")

    @property
    def last_termination(self) -> Terminated | None:
        """How its container ended most recently, None if it never did."""
        for container in self.status.container_statuses:
            ended = container.state.terminated or container.last_state.terminated
            if ended is not None:
                return ended
        return None


class DeploymentStatus(ResourceValue):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    conditions: tuple[NativeCondition, ...] = ()


class DeploymentSpec(ResourceValue):
    replicas: int = 1
    template: dict[str, Any] = Field(default_factory=dict)


class Deployment(Resource):
    KIND: ClassVar[Kind] = DEPLOYMENT

    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()

    @property
    def image(self) -> str | None:
        """Of the first container, None when there is none."""
        containers = self.template_spec.get("containers") or ()
        image = containers[0].get("image") if containers else None
        return str(image) if image else None

    @property
    def template_spec(self) -> dict[str, Any]:
        found = self.spec.template.get("spec")
        return found if isinstance(found, dict) else {}


class JobStatus(ResourceValue):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: datetime | None = None
    completion_time: datetime | None = None
    conditions: tuple[NativeCondition, ...] = ()


class Job(Resource):
    KIND: ClassVar[Kind] = JOB

    status: JobStatus = JobStatus()

    @property
    def is_complete(self) -> bool:
        return any(c.type == "Complete" and c.status == "True" for c in self.status.conditions)

    @property
    def failure(self) -> NativeCondition | None:
        """The Failed condition, None unless the Job has failed."""
        return next((c for c in self.status.conditions if c.type == "Failed" and c.status == "True"), None)
