"""Calls to pods: typed answers, and a named failure for everything that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bowsprit_operator.world.engines import CallFailure, EngineCallError, Engines, PodAddress
from bowsprit_policy import wire
from loops.fake_engine import CONTROL_PORT, FakeEngine


def address(engine: FakeEngine) -> PodAddress:
    return PodAddress(name="smollm2-1", uid="uid-1", ip=engine.ip, port=CONTROL_PORT)


async def test_stats_arrive_as_the_engine_counted_them() -> None:
    """The wire value survives the way through HTTP and JSON unchanged."""
    async with FakeEngine().serving() as engine:
        engine.run_traffic()
        answer = await Engines(token_file=None).stats(address(engine))
        assert engine.service.stats().model_copy(update={"policy_revision": 0}) == answer


async def test_the_token_is_read_again_for_each_call(tmp_path: Path) -> None:
    """The kubelet renews a projected token under a running operator."""
    file = tmp_path / "token"
    async with FakeEngine(token="second").serving() as engine:
        engines = Engines(token_file=file)
        file.write_text("first\n")
        with pytest.raises(EngineCallError) as refused:
            await engines.stats(address(engine))
        file.write_text("second\n")
        answer = await engines.stats(address(engine))
        assert (refused.value.reason, answer.boot_id) == (CallFailure.UNAUTHORIZED, "boot-1")


async def test_a_missing_token_file_is_told_apart_from_a_missing_pod(tmp_path: Path) -> None:
    """A mount that failed is the operator's own fault, not the pod's."""
    async with FakeEngine().serving() as engine:
        with pytest.raises(EngineCallError) as failed:
            await Engines(token_file=tmp_path / "absent").stats(address(engine))
        assert failed.value.reason is CallFailure.NO_TOKEN


async def test_a_silent_pod_times_out() -> None:
    """A pod that accepts the connection and never answers must not hold a tick up."""
    async with FakeEngine(is_silent=True).serving() as engine:
        with pytest.raises(EngineCallError) as failed:
            await Engines(token_file=None, timeout_seconds=0.05).stats(address(engine))
        assert failed.value.reason is CallFailure.TIMEOUT


async def test_a_pod_that_is_gone_is_unreachable() -> None:
    """Nobody listens at its address any more."""
    gone = PodAddress(name="gone", uid="uid-2", ip="127.1.250.250", port=CONTROL_PORT)
    with pytest.raises(EngineCallError) as failed:
        await Engines(token_file=None).stats(gone)
    assert failed.value.reason is CallFailure.UNREACHABLE


async def test_an_older_table_is_refused_as_stale() -> None:
    """The 409 of the contract has its own name, since the remedy is a higher revision."""
    async with FakeEngine(revision=7).serving() as engine:
        with pytest.raises(EngineCallError) as failed:
            await Engines(token_file=None).push_policy(address(engine), wire.PolicyTable(revision=6, table=()))
        assert (failed.value.reason, engine.pushes) == (CallFailure.STALE, [])


async def test_the_pods_own_words_are_in_the_error() -> None:
    """Whoever reads the message must not have to look into the pod's log."""
    async with FakeEngine(refusal="sha256 differs").serving() as engine:
        with pytest.raises(EngineCallError, match="sha256 differs") as failed:
            await Engines(token_file=None).load_drafter(address(engine), "head", wire.DrafterLoad(revision="r"))
        assert failed.value.reason is CallFailure.REFUSED
