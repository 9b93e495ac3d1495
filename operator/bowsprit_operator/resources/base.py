"""What every custom resource value has in common: frozen, camelCase, tolerant of fields that a newer version adds.

Also the API's number formats: no floats in a resource, so shares are percent strings and ratios decimal strings; here
they are read as floats and written as strings. Refuses to know any particular resource.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from bowsprit_operator.resources.kinds import Kind


class ResourceValue(BaseModel):
    """A part of a resource. Unknown keys are ignored when reading: the API server is the one that refuses them."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True
    )

    def manifest(self) -> dict[str, Any]:
        """As it is written to the API: camelCase keys, absent values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(ResourceValue):
    """An entry of metadata.ownerReferences."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ResourceValue):
    """The part of metadata that we read or write."""

    name: str
    namespace: str = "default"
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def controller_uid(self) -> str | None:
        """The uid of the object that controls this one, None when nobody does."""
        return next((owner.uid for owner in self.owner_references if owner.controller), None)


class Resource(ResourceValue):
    """A whole object. Subclasses say their KIND, which world/cluster.py reads and writes."""

    KIND: ClassVar[Kind]

    metadata: ObjectMeta

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    def owner_reference(self) -> dict[str, Any]:
        """For a child that this object controls. A fresh dict each time: shared ones leak between children."""
        return {
            "apiVersion": self.KIND.api_version,
            "kind": self.KIND.kind,
            "name": self.metadata.name,
            "uid": self.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


ResourceT = TypeVar("ResourceT", bound=Resource)


def _read_percent(value: object) -> object:
    return float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else value


def format_percent(share: float) -> str:
    """0.05 as "5%", with at most four decimals."""
    return f"{round(share * 100, 4):.10g}%"


Percent = Annotated[float, BeforeValidator(_read_percent), PlainSerializer(format_percent, return_type=str)]
"""A share of one, written as a percent string."""

Decimal6 = Annotated[float, PlainSerializer(lambda value: f"{value:.6g}", return_type=str)]
"""A ratio, written as a decimal string of six significant digits."""


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as the API server writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, PlainSerializer(format_time, return_type=str)]
