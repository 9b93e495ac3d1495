"""Two replicas, one leader: by the real Lease, through an orderly end and a kill."""

from __future__ import annotations

import signal
import time

import pytest

from bowsprit_operator.resources.kinds import DEPLOYMENT
from controller.lab import Lab, answers, free_port, get, until

pytestmark = pytest.mark.apiserver


async def test_only_the_leader_acts(lab: Lab) -> None:
    """The second replica is healthy, and not leading."""
    async with lab.operator(identity="one") as first:
        await until(lab.leader, lambda holder: holder == "one")
        async with lab.operator(identity="two") as second:
            await lab.apply("m")
            await lab.exists(DEPLOYMENT, "m")
            assert (first.is_leading, second.is_leading) == (True, False)


async def test_a_leader_that_ends_in_order_hands_over_at_once(lab: Lab) -> None:
    """It gives the Lease back: the next one doesn't wait for its expiry, and the process exits with 0."""
    async with lab.process("one") as first:
        await until(lab.leader, lambda holder: holder == "one")
        port = free_port()
        async with lab.process("two", health_port=port):
            await until(lambda: answers(port), bool)
            first.send_signal(signal.SIGTERM)
            code = await first.wait()
            ended = time.monotonic()
            await until(lab.leader, lambda holder: holder == "two")
            waited = time.monotonic() - ended
            await lab.apply("m")
            await lab.exists(DEPLOYMENT, "m")
    assert code == 0
    assert waited < lab.settings().lease_seconds


async def test_a_killed_leader_is_replaced_when_its_lease_expires(lab: Lab) -> None:
    """What it left undone is done by the next one."""
    async with lab.process("one") as first:
        await until(lab.leader, lambda holder: holder == "one")
        async with lab.process("two"):
            first.kill()
            await first.wait()
            await lab.apply("m")
            await lab.exists(DEPLOYMENT, "m")
            assert await lab.leader() == "two"


async def test_health_and_metrics_are_answered_by_followers_too(lab: Lab) -> None:
    """A follower that fails its probes would be restarted for ever."""
    async with lab.operator(identity="one") as first, lab.operator(identity="two") as second:
        await until(lab.leader, lambda holder: holder in ("one", "two"))
        answers = [await get(operator.health_port, "/healthz") for operator in (first, second)]
        metrics = [await get(operator.health_port, "/metrics") for operator in (first, second)]
    assert answers == [(200, "ok"), (200, "ok")]
    leading = sorted(line for _, text in metrics for line in text.splitlines() if line.startswith("bowsprit_leader "))
    assert leading == ["bowsprit_leader 0.0", "bowsprit_leader 1.0"]
