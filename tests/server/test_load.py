"""What a busy server tells its clients: that it has no room now, and what it had of their prompts already."""

from __future__ import annotations

from bowsprit_engine.errors import WorldError
from scripted_engine import ScriptedEngine
from server.running_server import Serve


async def test_beyond_its_queue_a_server_answers_429_with_retry_after(serve: Serve) -> None:
    """OpenAI-shaped, streamed or not, so that clients back off and try again."""
    full = WorldError("264 requests run or wait, the limit is 264", reason="Overloaded")
    server = await serve(ScriptedEngine(submit_error=full))

    for fields in ({}, {"stream": True}):
        refused = await server.chat(**fields)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"] == {
            "message": "264 requests run or wait, the limit is 264",
            "type": "rate_limit_error",
            "param": None,
            "code": "Overloaded",
        }


async def test_more_choices_than_a_server_ever_has_room_for_are_no_429(serve: Serve) -> None:
    """Coming again wouldn't help: refused with the number and the limit, prompts counted; as many as go are served."""
    server = await serve(max_requests=4)

    refused = [await server.chat(n=5), await server.complete(["a", "b", "c"], n=2)]
    taken = await server.complete(["a", "b"], n=2)

    assert [(answer.status_code, answer.json()["error"]["param"]) for answer in refused] == [(400, "n")] * 2
    assert "n is 2, the limit is 4 choices over all 3 prompts" in refused[1].json()["error"]["message"]
    assert (taken.status_code, len(taken.json()["choices"])) == (200, 4)


async def test_usage_tells_how_much_of_the_prompts_was_cached(serve: Serve) -> None:
    """Once per prompt, as prompt tokens are counted, whatever the number of choices."""
    server = await serve(ScriptedEngine(num_cached_tokens=16))

    one = (await server.complete(["a" * 20], n=1)).json()["usage"]
    many = (await server.complete(["a" * 20, "b" * 20], n=3)).json()["usage"]

    assert (one["prompt_tokens"], one["prompt_tokens_details"]) == (20, {"cached_tokens": 16})
    assert (many["prompt_tokens"], many["prompt_tokens_details"]) == (40, {"cached_tokens": 32})


async def test_the_prefix_cache_is_counted_under_vllms_names(serve: Serve) -> None:
    """Tokens looked up, and tokens found."""
    server = await serve()

    lines = (await server.control.get("/metrics")).text

    labels = '{engine="0",model_name="scripted"}'
    assert f"bowsprit:prefix_cache_queries_total{labels} 60.0" in lines
    assert f"bowsprit:prefix_cache_hits_total{labels} 48.0" in lines
