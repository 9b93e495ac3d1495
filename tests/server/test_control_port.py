"""The control port: probes, figures, and the operator's calls."""

from __future__ import annotations

import threading

import pytest

from bowsprit_engine.errors import CallerError, SpeculatorError, WorldError
from bowsprit_policy.wire import DrafterLoad, DrafterStats, EngineStats, PolicyStatus, PolicyTable, Profile, TableRow
from scripted_engine import ScriptedEngine
from server.running_server import Serve

LOAD = DrafterLoad(revision="r-1", uri="file:///claims/x/speculators/r-1", sha256="a" * 64)


async def test_probes_tell_starting_serving_and_draining_apart(serve: Serve) -> None:
    """Alive all the time; ready only while requests are served, with the reason otherwise."""
    starting = await serve(is_loaded=False)
    assert (await starting.control.get("/healthz")).status_code == 200
    before = await starting.control.get("/readyz")
    assert (before.status_code, before.text) == (503, "loading the model")

    serving = await serve()
    assert (await serving.control.get("/readyz")).status_code == 200
    serving.lifecycle.begin_drain()
    after = await serving.control.get("/readyz")
    assert (after.status_code, after.text) == (503, "draining")
    assert (await serving.control.get("/healthz")).status_code == 200


async def test_an_engine_that_ended_by_itself_is_not_alive(serve: Serve) -> None:
    """Only a restart mends it, so liveness must say so."""
    server = await serve()
    assert (await server.control.get("/readyz")).status_code == 200
    server.engine.stop()
    assert (await server.control.get("/healthz")).status_code == 503
    refused = await server.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "Failed")


async def test_stats_and_profile_are_the_contracts_own_values(serve: Serve) -> None:
    """As the operator reads them."""
    server = await serve()
    stats = EngineStats.model_validate_json((await server.control.get("/control/v1/stats")).content)
    profile = Profile.model_validate_json((await server.control.get("/control/v1/profile")).content)
    assert stats.drafters == server.engine.drafters()
    assert profile == server.engine.profile()


async def test_a_newer_table_is_taken_the_same_one_again_and_an_older_one_is_a_409(serve: Serve) -> None:
    """The 409 names both revisions."""
    server = await serve()

    async def put(revision: int) -> tuple[int, dict[str, object]]:
        table = PolicyTable(revision=revision, table=(TableRow(),))
        answer = await server.control.put("/control/v1/policy", json=table.model_dump(mode="json"))
        return answer.status_code, answer.json()

    assert (await put(7))[0] == 200
    assert (await put(7))[0] == 200
    status, body = await put(5)
    assert (status, body["stored"], body["offered"]) == (409, 7, 5)
    held = PolicyStatus.model_validate_json((await server.control.get("/control/v1/policy")).content)
    assert held == PolicyStatus(revision=7, table=(TableRow(),))


async def test_a_table_that_is_none_is_a_400_that_names_the_field(serve: Serve) -> None:
    """Not FastAPI's 422."""
    server = await serve()
    answer = await server.control.put("/control/v1/policy", json={"revision": -1, "table": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "revision")


async def test_a_speculator_is_loaded_into_the_named_drafter(serve: Serve) -> None:
    """And its new figures are the answer."""
    server = await serve()
    answer = await server.control.put("/control/v1/drafters/head", json=LOAD.model_dump(mode="json"))
    assert (answer.status_code, answer.json()["revision"]) == (200, "r-1")
    assert server.engine.loads == [("head", LOAD)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SpeculatorError("made for another model", reason="ModelMismatch"), 422, "ModelMismatch"),
        (WorldError("another load has not ended", reason="Loading"), 503, "Loading"),
        (CallerError("no drafter 'head'", param="name", code="not_found"), 404, "not_found"),
        (CallerError("drafter 'ngram' has no revisions", param="name"), 400, "invalid_value"),
    ],
)
async def test_a_speculator_that_cant_be_loaded_is_refused_with_its_reason(
    serve: Serve, error: Exception, status: int, code: str
) -> None:
    """Unfit artifacts, unknown drafters, drafters without revisions."""
    server = await serve(ScriptedEngine(load_error=error))
    answer = await server.control.put("/control/v1/drafters/head", json=LOAD.model_dump(mode="json"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_no_end_of_the_process_waits_for_a_load_that_hangs(serve: Serve) -> None:
    """The event loop's own threads would be joined, for ever if a mount is gone."""
    threads: list[threading.Thread] = []

    class Loading(ScriptedEngine):
        def load_drafter(self, name: str, load: DrafterLoad) -> DrafterStats:
            threads.append(threading.current_thread())
            return super().load_drafter(name, load)

    server = await serve(Loading())
    await server.control.put("/control/v1/drafters/head", json=LOAD.model_dump(mode="json"))

    assert [thread.daemon for thread in threads] == [True]


async def test_calls_before_the_model_is_loaded_are_asked_to_come_back(serve: Serve) -> None:
    """There are no figures yet."""
    server = await serve(is_loaded=False)
    assert (await server.control.get("/control/v1/stats")).status_code == 503


async def test_a_drain_can_be_asked_for(serve: Serve) -> None:
    """As by SIGTERM."""
    server = await serve()
    answer = await server.control.post("/control/v1/drain")
    assert (answer.status_code, answer.json()) == (202, {"requestsInFlight": 0})
    assert (await server.chat()).status_code == 503


@pytest.mark.parametrize("prefix", ["bowsprit", "vllm"])
async def test_metrics_have_vllms_names_under_the_chosen_prefix(serve: Serve, prefix: str) -> None:
    """Counters per drafter and position, steps by bucket, latencies and ends of requests."""
    server = await serve(metrics_prefix=prefix)
    await server.chat()
    lines = (await server.control.get("/metrics")).text.splitlines()
    common = 'engine="0",model_name="scripted"'
    assert [line for line in lines if line.startswith(f"{prefix}:spec_decode_num_accepted_tokens_per_pos_total")] == [
        f'{prefix}:spec_decode_num_accepted_tokens_per_pos_total{{drafter="ngram",{common},position="{i}"}} {count}'
        for i, count in ((0, "4.0"), (1, "1.0"))
    ]
    for expected in (
        f'{prefix}:spec_decode_num_drafts_total{{drafter="ngram",{common}}} 6.0',
        f'{prefix}:spec_decode_num_draft_tokens_total{{drafter="ngram",{common}}} 10.0',
        f'{prefix}:spec_decode_wasted_draft_tokens_total{{drafter="ngram",{common}}} 5.0',
        f'{prefix}:draft_kv_lag_tokens{{drafter="ngram",{common}}} 7.0',
        f'{prefix}:spec_decode_not_finite_total{{drafter="ngram",{common}}} 2.0',
        f'{prefix}:step_seconds_count{{batch="1",context="256",{common},rows="4"}} 10.0',
        f'{prefix}:request_success_total{{engine="0",finished_reason="length",model_name="scripted"}} 1.0',
        f"{prefix}:time_to_first_token_seconds_count{{{common}}} 1.0",
        f"{prefix}:num_requests_running{{{common}}} 0.0",
        f"{prefix}:prefill_steps_total{{{common}}} 0.0",
        f"{prefix}:num_preemptions_total{{{common}}} 0.0",
    ):
        assert expected in lines
