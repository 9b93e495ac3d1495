"""Streams: the same text as whole answers, in pieces that are safe to show, and nothing left running behind them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from bowsprit_engine.server.prompts import PromptEncoder
from scripted_engine import END, ScriptedEngine
from server.running_server import RunningServer, Serve

PATIENCE_SECONDS = 20.0


def _texts(chunks: list[dict[str, object]]) -> list[str]:
    return [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("step_tokens", [1, 2, 5, 64])
async def test_pieces_are_whole_characters_and_add_up_to_the_whole_answer(serve: Serve, step_tokens: int) -> None:
    """A character of four bytes, one byte per token, never shows as a replacement character."""
    text = "naïve 🙂 日本語 e\u0301 done"
    server = await serve(ScriptedEngine(answer=lambda request: [*text.encode(), END], step_tokens=step_tokens))
    pieces = _texts(await server.stream())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


async def test_a_character_cut_off_by_the_limit_shows_as_a_replacement_character(serve: Serve) -> None:
    """Streamed and whole alike."""
    server = await serve(ScriptedEngine(answer=lambda request: "ab🙂".encode()))
    streamed = "".join(_texts(await server.stream(max_tokens=4)))
    whole = (await server.chat(max_tokens=4)).json()["choices"][0]["message"]["content"]
    assert (streamed, whole) == ("ab\ufffd", "ab\ufffd")


@pytest.mark.parametrize("step_tokens", [1, 3, 8])
async def test_nothing_of_a_stop_string_is_ever_shown(serve: Serve, step_tokens: int) -> None:
    """Not even its first letters; text that only began like one comes later."""
    answer = b"a STO b STOP c"
    server = await serve(ScriptedEngine(answer=lambda request: answer, step_tokens=step_tokens))
    chunks = await server.stream(stop="STOP")
    assert "".join(_texts(chunks)) == "a STO b "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_first_chunk_has_the_role_and_the_last_the_reason_and_the_figures(serve: Serve) -> None:
    """As OpenAI's clients assemble them."""
    server = await serve(ScriptedEngine(answer=lambda request: b"abc"))
    chunks = await server.stream(seed=5)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]
    assert chunks[-1]["metrics"]["seed"] == 5


@pytest.mark.parametrize("step_tokens", [1, 4, 64])
async def test_a_stop_string_within_the_first_min_tokens_stops_nothing(serve: Serve, step_tokens: int) -> None:
    """The first that lies behind them does."""
    server = await serve(ScriptedEngine(answer=lambda request: b"a|b|c|d", step_tokens=step_tokens))
    chunks = await server.stream(stop="|", min_tokens=2)
    assert ("".join(_texts(chunks)), chunks[-1]["choices"][0]["finish_reason"]) == ("a|b", "stop")


async def test_every_other_chunk_of_a_stream_with_usage_has_none(serve: Serve) -> None:
    """The key with null, as OpenAI's have it; without the option there is no key."""
    server = await serve()
    *chunks, last = await server.stream(stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["usage"]["completion_tokens"] > 0
    assert not any("usage" in chunk for chunk in await server.stream())


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(serve: Serve) -> None:
    """With no choices in it."""
    server = await serve(ScriptedEngine(answer=lambda request: b"abc"))
    last = (await server.stream(stream_options={"include_usage": True}))[-1]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 3,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_choices_of_one_stream_are_told_apart_by_index(serve: Serve) -> None:
    """Two choices, each with its role, its text and its end."""
    server = await serve(ScriptedEngine(answer=lambda request: bytes([65 + request.sampling.seed]) * 4))
    chunks = await server.stream(n=2, seed=0)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "AAAA", 1: "BBBB"}


async def test_text_completions_stream_too(serve: Serve) -> None:
    """In their own shape."""
    server = await serve(ScriptedEngine(answer=lambda request: b"abcdef"))
    chunks = await server.stream("/v1/completions", messages=None, prompt="x")
    assert [chunk["object"] for chunk in chunks] == ["text_completion"] * 2
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "abcdef"


async def test_an_error_after_the_first_byte_is_an_event_and_ends_the_stream(serve: Serve) -> None:
    """A client can't get a status any more, so the stream says it."""
    server = await serve(ScriptedEngine(error="the model's logits are not finite"))
    chunks = await server.stream()
    assert chunks[-1] == {
        "error": {
            "message": "the model's logits are not finite",
            "type": "server_error",
            "param": None,
            "code": "EngineFailure",
        }
    }


async def test_an_error_in_a_whole_answer_is_a_500(serve: Serve) -> None:
    """With the same words."""
    server = await serve(ScriptedEngine(error="the model's logits are not finite"))
    answer = await server.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "EngineFailure")


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_hangs_up_cancels_its_request_at_once(serve: Serve, is_stream: bool) -> None:
    """The engine is told while it is held back in the middle of the answer."""
    engine = ScriptedEngine(answer=lambda request: b"x" * 400)
    engine.gate.clear()
    server = await serve(engine)
    writer = await _send(server, is_stream=is_stream)
    writer.close()
    assert await asyncio.to_thread(engine.was_cancelled.wait, PATIENCE_SECONDS)
    assert engine.cancelled == [engine.requests[0].request_id]


async def _send(server: RunningServer, *, is_stream: bool) -> asyncio.StreamWriter:
    """A request on a raw connection, sent and submitted to the engine."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": is_stream}
    content = json.dumps(body).encode()
    _, writer = await asyncio.open_connection(*server.address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    assert await asyncio.to_thread(server.engine.was_asked.wait, PATIENCE_SECONDS)
    return writer


@pytest.mark.parametrize(("num_characters", "is_beside"), [(10, False), (20_000, True)])
async def test_a_long_prompt_is_encoded_beside_the_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, num_characters: int, is_beside: bool
) -> None:
    """Streams go on meanwhile; what is wrong with it is told as ever."""
    server: RunningServer = await serve(max_model_len=30_000)
    threads: list[int] = []
    encode = PromptEncoder._encode

    def watched(*args: Any, **fields: Any) -> Any:
        threads.append(threading.get_ident())
        return encode(*args, **fields)

    monkeypatch.setattr(PromptEncoder, "_encode", watched)
    answers = [await server.chat("x" * num_characters), await server.complete("x" * num_characters)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [thread != threading.get_ident() for thread in threads] == [is_beside] * 2
    refused = await server.chat("x" * num_characters, tools=[{"type": "function", "function": {"name": "f"}}] * 2)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
