"""Two tenants of one server who ask the same: neither can tell by its answers' speed that the other was there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.speculation import profile
from bowsprit_engine.speculation.drafters.suffix import Sharing, SuffixDrafter
from server.live_engine import MAX_MODEL_LEN, live_engine, tiny_runner
from server.running_server import RunningServer, Serve

PROMPT = "Whoever asks for the first time waits for every token of this."


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What tells of earlier requests: prompt tokens that were there already, and drafts that came true."""

    num_cached: int
    num_accepted: int
    num_drafted: int


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchRunner]:
    folder = tmp_path_factory.mktemp("tenants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWSPRIT_CACHE_DIR", str(folder / "cache"))
        patch.setattr(profile, "SECONDS_BOUND", 0.1)
        yield tiny_runner(folder / "model")


async def asked(server: RunningServer, tenant: str, *, user: str | None = None, seed: int = 3) -> tuple[str, Told]:
    body = {"model": "scripted", "prompt": PROMPT, "max_tokens": 30, "ignore_eos": True, "seed": seed, "user": user}
    answer = (await server.client.post("/v1/completions", json=body, headers={"x-bowsprit-tenant": tenant})).json()
    drafting = answer["metrics"]["speculative_decoding"]
    told = Told(
        num_cached=answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        num_accepted=drafting["num_accepted_draft_tokens"],
        num_drafted=drafting["num_draft_tokens"],
    )
    return answer["choices"][0]["text"], told


async def running(serve: Serve, runner: TorchRunner, sharing: Sharing) -> RunningServer:
    engine = live_engine(runner, kv_blocks=64, drafters=[SuffixDrafter(name="suffix", sharing=sharing)])
    server: RunningServer = await serve(engine, max_model_len=MAX_MODEL_LEN)
    assert engine.wait_ready(60)
    return server


async def test_a_tenant_sees_nothing_of_what_another_was_answered(serve: Serve, runner: TorchRunner) -> None:
    """Its first request is drafted for, and finds as little computed, as the other's first; its second is quicker."""
    server = await running(serve, runner, "tenant")
    first = await asked(server, "a")
    again = await asked(server, "a")
    other = await asked(server, "b")
    guest = await asked(server, "a", user="somebody")

    assert (again[0], other[0], guest[0]) == (first[0],) * 3
    assert (other[1], guest[1]) == (first[1], first[1])
    assert again[1].num_cached > first[1].num_cached == 0
    assert again[1].num_accepted > first[1].num_accepted


async def test_answers_that_are_shared_with_everybody_are_drafted_for_everybody(
    serve: Serve, runner: TorchRunner
) -> None:
    """Where the server's owner wants it so; prompts stay each tenant's own."""
    server = await running(serve, runner, "all")
    first = await asked(server, "a")
    other = await asked(server, "b")

    assert other[0] == first[0]
    assert (other[1].num_cached, other[1].num_accepted > first[1].num_accepted) == (0, True)
