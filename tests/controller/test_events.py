"""Events: what a recorder writes, counts and leaves out; and what kubectl shows of it on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from bowsprit_operator.resources.conditions import ModelCondition
from bowsprit_operator.resources.happenings import Happening
from bowsprit_operator.resources.kinds import EVENT, Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.world.cluster import Cluster, ClusterError
from bowsprit_operator.world.events import BURST, Events
from cluster.driver import Cluster as ClusterUnderTest
from controller.lab import Lab, until
from serving.objects import a_model

SWITCHED = Happening(reason="DraftLength", action="GoodputGain", note="K 4 → 6 at batch ≤ 2")


class Applied:
    """Stands in for the API server: keeps what was applied."""

    def __init__(self) -> None:
        self.manifests: list[Mapping[str, Any]] = []
        self.error: ClusterError | None = None

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.manifests.append(manifest)
        return dict(manifest)

    def series(self) -> list[int]:
        """How often each write says that it happened."""
        return [manifest.get("series", {}).get("count", 1) for manifest in self.manifests]


class Time:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def recorder(applied: Applied, time: Time) -> Events:
    return Events(cast("Cluster", applied), instance="one", clock=time)


async def test_the_same_words_about_the_same_object_are_one_event_with_a_count() -> None:
    """Within ten minutes; the name stays, so that the API server counts it up."""
    applied, time = Applied(), Time()
    events = recorder(applied, time)
    for _ in range(3):
        await events.record(a_model(), SWITCHED)
        time.now += 60
    assert applied.series() == [1, 2, 3]
    assert len({manifest["metadata"]["name"] for manifest in applied.manifests}) == 1


async def test_other_words_or_a_long_pause_make_another_event() -> None:
    """The numbers of each decision are kept."""
    applied, time = Applied(), Time()
    events = recorder(applied, time)
    await events.record(a_model(), SWITCHED)
    await events.record(a_model(), Happening(reason="DraftLength", action="GoodputGain", note="K 6 → 8"))
    time.now += 601
    await events.record(a_model(), SWITCHED)
    assert applied.series() == [1, 1, 1]
    assert len({manifest["metadata"]["name"] for manifest in applied.manifests}) == 3


async def test_an_object_has_so_many_events_at_once_and_then_one_a_minute() -> None:
    """Whatever goes round in circles cannot flood etcd."""
    applied, time = Applied(), Time()
    events = recorder(applied, time)
    for number in range(BURST + 10):
        await events.record(a_model(), Happening(reason="EngineFault", action="X", note=str(number)))
    flood = len(applied.manifests)
    time.now += 60
    for number in range(5):
        await events.record(a_model(), Happening(reason="EngineFault", action="X", note=f"later {number}"))
    assert (flood, len(applied.manifests)) == (BURST, BURST + 1)


async def test_an_event_that_cannot_be_written_stops_nobody() -> None:
    """And is told anew when the same happens again."""
    applied, time = Applied(), Time()
    applied.error = ClusterError("no answer")
    events = recorder(applied, time)
    await events.record(a_model(), SWITCHED)
    applied.error = None
    await events.record(a_model(), SWITCHED)
    assert applied.series() == [1]


async def test_a_note_is_cut_to_what_the_api_takes() -> None:
    """An engine's last words may be long."""
    applied = Applied()
    await recorder(applied, Time()).record(a_model(), Happening(reason="Stalled", action="X", note="x" * 5000))
    assert len(applied.manifests[0]["note"]) == 1024


@pytest.mark.apiserver
async def test_kubectl_describe_shows_what_happened(lab: Lab, api_server: ClusterUnderTest) -> None:
    """A real API server takes the Events of a real operator, and kubectl finds them by the object."""
    async with lab.operator():
        await lab.apply("m")
        await lab.condition("m", ModelCondition.ENGINES_READY, reason="Unschedulable")
        await until(lambda: lab.cluster.list(EVENT, lab.namespace), lambda found: "EngineFault" in reasons(found))
    text = await asyncio.to_thread(api_server.kubectl, "describe", "smodel/m", "--namespace", lab.namespace)
    told = text[text.index("Events:") :]
    assert [
        word for word in ("Warning", "EngineFault", "bowsprit.dev/operator", "Unschedulable") if word not in told
    ] == []


def reasons(found: tuple[dict[str, Any], ...]) -> list[str]:
    return [event["reason"] for event in found if event["regarding"]["kind"] == "SpeculativeModel"]


@pytest.mark.apiserver
async def test_a_real_api_server_counts_the_same_event(lab: Lab) -> None:
    """The second time is an update of the series, which its validation allows, and related objects are kept."""
    await lab.apply("m")
    model: SpeculativeModel = await lab.model("m")
    time = Time()
    events = Events(lab.cluster, instance="one", clock=time)
    for _ in range(3):
        await events.record(model, SWITCHED, related=model)
        time.now += 1
    (stored,) = await lab.cluster.list(EVENT, lab.namespace)
    assert (stored["series"]["count"], stored["note"], stored["regarding"]["uid"]) == (
        3,
        SWITCHED.note,
        model.metadata.uid,
    )
    assert stored["related"]["name"] == "m"
