"""The operator's calls for a shadow, over HTTP, on a real engine: what is answered, refused, listed and exported."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_policy.wire import DrafterStats, EngineStats
from server.running_server import RunningServer, Serve
from server.shadowing_engine import shadowing_engine
from speculation.revised_head import RevisedHead, guessing, raising

SHA256 = "a" * 64


@pytest.fixture
async def server(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> RunningServer:
    """With a head, a look-up drafter, and a shadow that drafts whenever it can."""
    drafters = [
        RevisedHead({"one": guessing(1), "two": guessing(2), "raising": raising}),
        NGramDrafter(name="ngram"),
    ]
    engine = shadowing_engine(drafters, max_model_len=256, monkeypatch=monkeypatch, cache=tmp_path)
    running: RunningServer = await serve(engine)
    assert engine.wait_ready(60)
    return running


async def put(server: RunningServer, name: str = "head", **load: object) -> tuple[int, dict[str, Any]]:
    answer = await server.control.put(f"/control/v1/drafters/{name}", json=load)
    return answer.status_code, answer.json()


def named(revision: str, role: str) -> dict[str, str]:
    return {"revision": revision, "uri": f"file:///claims/{revision}", "sha256": SHA256, "role": role}


def serve_one(server: RunningServer) -> None:
    """A request of eighty tokens, to its end."""
    is_done = threading.Event()
    server.engine.submit(
        Request(
            request_id="r",
            prompt_token_ids=(5, 6, 7),
            sampling=SamplingParams(seed=0, temperature=0.0, max_tokens=80),
            speculation=SpeculationParams(),
            on_output=lambda output: is_done.set() if output.finish_reason is not None else None,
        )
    )
    assert is_done.wait(60)


async def test_a_shadow_is_loaded_listed_promoted_and_unloaded(server: RunningServer) -> None:
    """Each answer is what the drafter is now; GET drafters and GET stats say the same."""
    await put(server, **named("one", "serving"))
    status, loaded = await put(server, **named("two", "shadow"))
    listed = (await server.control.get("/control/v1/drafters")).json()
    stats = EngineStats.model_validate_json((await server.control.get("/control/v1/stats")).content)

    assert (status, loaded["revision"], loaded["shadow"]["candidate"]["revision"]) == (200, "one", "two")
    assert listed[0] == loaded
    assert stats.drafters == tuple(map(DrafterStats.model_validate, listed))
    assert listed[1]["shadow"] is None

    status, promoted = await put(server, revision="two")
    assert (status, promoted["revision"], promoted["shadow"]) == (200, "two", None)
    await put(server, **named("one", "shadow"))
    status, unloaded = await put(server, revision=None, role="shadow")
    assert (status, unloaded["revision"], unloaded["shadow"]) == (200, "two", None)


@pytest.mark.parametrize(
    ("name", "load", "status", "code", "words"),
    [
        ("head", named("none", "shadow"), 422, "ChecksumMismatch", f"found {'0' * 64}, wanted {SHA256}"),
        ("head", named("one", "shadow"), 400, "invalid_value", "revision 'one' serves: it can't be its own shadow"),
        ("head", {"revision": "two", "role": "shadow"}, 400, "invalid_value", "revision 'two' needs a uri"),
        ("head", {"revision": "two", "uri": "s3://b/two", "role": "shadow"}, 422, None, "s3"),
        ("head", {"revision": "two", "uri": "file:///two", "role": "canary"}, 400, "invalid_value", "or 'shadow'"),
        ("head", named("two", "shadow") | {"sha256": "short"}, 400, "invalid_value", "0-9a-f"),
        ("ngram", named("two", "shadow"), 400, "invalid_value", "drafter 'ngram' of type NGram has no revisions"),
        ("nobody", named("two", "shadow"), 404, "not_found", "no drafter 'nobody'"),
    ],
)  # fmt: skip
async def test_what_cant_be_a_shadow_is_refused_and_nothing_changes(
    server: RunningServer, name: str, load: dict[str, object], status: int, code: str | None, words: str
) -> None:
    """Unfit files, drafters without a second buffer, roles that there are not."""
    await put(server, **named("one", "serving"))
    before = (await server.control.get("/control/v1/drafters")).json()
    found, body = await put(server, name, **load)
    assert (found, words in body["error"]["message"]) == (status, True), body
    assert code in (None, body["error"]["code"])
    assert (await server.control.get("/control/v1/drafters")).json() == before


async def test_shadows_have_families_of_their_own_and_are_in_no_other(server: RunningServer) -> None:
    """A sum over drafters is what was served; the candidate and who serves are told by role."""
    await put(server, **named("one", "serving"))
    await put(server, **named("two", "shadow"))
    serve_one(server)
    stats = server.engine.stats()
    head = stats.drafters[0]
    lines = (await server.control.get("/metrics")).text.splitlines()
    common = {'engine="0"', 'model_name="scripted"'}

    def value(family: str, **labels: str) -> float:
        wanted = common | {f'{key}="{text}"' for key, text in labels.items()}
        of_family = [line for line in lines if line.startswith(f"bowsprit:{family}{{")]
        (line,) = [line for line in of_family if wanted == set(re.findall(r"[\w]+=\"[^\"]*\"", line))]
        return float(line.split()[-1])

    assert head.shadow is not None
    assert head.shadow.incumbent is not None
    assert head.shadow.sequence_steps > 10
    assert value("spec_decode_shadow_sequence_steps_total", drafter="head") == head.shadow.sequence_steps
    assert value("spec_decode_shadow_seconds_total", drafter="head") >= head.shadow.seconds > 0
    for role, scores in (("candidate", head.shadow.candidate), ("incumbent", head.shadow.incumbent)):
        reached = value("spec_decode_shadow_reached_total", drafter="head", role=role, position="0")
        assert reached == scores.reached[0] == head.shadow.sequence_steps
    assert value("shadow_revision_info", drafter="head", candidate="two", incumbent="one", state="Active") == 1
    assert value("spec_decode_num_draft_tokens_total", drafter="head") == head.drafted_tokens
    assert value("spec_decode_reached_total", drafter="head", position="0") == head.reached[0]
    others = [line for line in lines if 'drafter="' in line and "shadow" not in line]
    assert not [line for line in others if "candidate" in line or "incumbent" in line or '"two"' in line]


async def test_a_shadow_that_breaks_is_told_and_the_pod_serves_on(server: RunningServer) -> None:
    """Ready, with the reason in its figures."""
    await put(server, **named("one", "serving"))
    await put(server, **named("raising", "shadow"))
    serve_one(server)
    (head, _) = (await server.control.get("/control/v1/drafters")).json()
    assert (head["state"], head["shadow"]["state"]) == ("Active", "Broken")
    assert head["shadow"]["reason"] == "RuntimeError: no such kernel"
    assert (await server.control.get("/readyz")).status_code == 200
    assert 'state="Broken"' in (await server.control.get("/metrics")).text
