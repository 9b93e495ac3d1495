"""What a running cluster says of itself in its run folder, for the processes that come later."""

import json
from dataclasses import asdict, dataclass

from cluster.places import Places
from cluster.plan import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """parts: those that were started. api_url: the API server on the host's loopback, None before it is forwarded."""

    parts: tuple[Part, ...]
    api_url: str | None = None

    def write(self, places: Places) -> None:
        (places.run / "cluster.json").write_text(json.dumps(asdict(self)))


def read(places: Places) -> Record | None:
    """The record, None where nothing was started."""
    path = places.run / "cluster.json"
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return Record(parts=tuple(Part(part) for part in fields["parts"]), api_url=fields["api_url"])
