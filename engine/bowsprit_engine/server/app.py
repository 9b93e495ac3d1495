"""The OpenAI port: from an HTTP body to a generation and its answer.

Each handler reads in order: body, prompt, grammar, plan, generation, answer. Everything that may be wrong with a
request is raised as CallerError before anything runs (planning.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.types import ASGIApp

from bowsprit_engine.errors import CallerError
from bowsprit_engine.server import errors, openapi
from bowsprit_engine.server.edge import Edge, read_body
from bowsprit_engine.server.generation import Generation, Plan
from bowsprit_engine.server.lifecycle import Lifecycle, Served
from bowsprit_engine.server.planning import grammar_of, plan_of
from bowsprit_engine.server.replies import Kind, Replies
from bowsprit_engine.server.stream import EventStream, until_gone
from bowsprit_engine.server.text import quick_decoder
from bowsprit_engine.server.tools import ToolUse, tool_use
from bowsprit_engine.server.wire import ChatBody, CompletionBody

Body = TypeVar("Body", ChatBody, CompletionBody)
Prompt = TypeVar("Prompt")
LONG_BODY_BYTES = 4096  # of about 1,000 tokens, which take a millisecond
NOBODY_READS = Response(status_code=499)  # as nginx logs a client that hung up; no one receives it


def create_app(lifecycle: Lifecycle, *, max_body_bytes: int) -> ASGIApp:
    """The application of the serving port."""
    # no redirects of trailing slashes: behind TLS they would send a bearer key to an http:// address
    app = FastAPI(title="Bowsprit", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    errors.install(app)
    port = _OpenAIPort(lifecycle, max_body_bytes=max_body_bytes)
    app.add_api_route("/openapi.json", _openapi, methods=["GET"])
    app.add_api_route("/v1/models", port.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", port.model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", port.chat, methods=["POST"])
    app.add_api_route("/v1/completions", port.complete, methods=["POST"])
    return Edge(app, lifecycle=lifecycle)


async def _openapi() -> JSONResponse:
    return JSONResponse(openapi.document(version=version("bowsprit")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """A checked request: what to generate, and how to answer."""

    kind: Kind
    plan: Plan
    is_stream: bool
    includes_usage: bool
    has_logprobs: bool
    use: ToolUse | None


class _OpenAIPort:
    def __init__(self, lifecycle: Lifecycle, *, max_body_bytes: int) -> None:
        self._lifecycle = lifecycle
        self._max_body_bytes = max_body_bytes

    async def models(self) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model_card(self._lifecycle.ready())]})

    async def model(self, name: str) -> JSONResponse:
        served = self._lifecycle.ready()
        _check_model(name, served)
        return JSONResponse(_model_card(served))

    async def chat(self, request: Request) -> Response:
        served = self._lifecycle.ready()
        content = await self._read(request)
        if content is None:
            return NOBODY_READS
        body, num_bytes = _parsed(content, ChatBody), len(content)
        _check_model(body.model, served)
        use = tool_use(body, served.prompts.tool_format)
        prompt = await _beside(partial(served.prompts.chat, body, use), num_bytes=num_bytes)
        grammar = await grammar_of(body, request.headers, served, use)
        plan = plan_of(body, request.headers, served, prompts=[prompt], prefix="chatcmpl", grammar=grammar)
        return await _answer(request, served, _asked("chat", body, plan, use))

    async def complete(self, request: Request) -> Response:
        served = self._lifecycle.ready()
        content = await self._read(request)
        if content is None:
            return NOBODY_READS
        body, num_bytes = _parsed(content, CompletionBody), len(content)
        _check_model(body.model, served)
        prompts = await _beside(partial(served.prompts.completion, body), num_bytes=num_bytes)
        grammar = await grammar_of(body, request.headers, served, None)
        plan = plan_of(body, request.headers, served, prompts=prompts, prefix="cmpl", grammar=grammar)
        return await _answer(request, served, _asked("completion", body, plan, None))

    async def _read(self, request: Request) -> bytes | None:
        return await read_body(request.receive, request.headers, limit=self._max_body_bytes)


def _parsed(content: bytes, kind: type[Body]) -> Body:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise errors.explain(error.errors(include_url=False)) from error


async def _beside(encode: Callable[[], Prompt], *, num_bytes: int) -> Prompt:
    """A prompt's tokens. Templates and tokenizers of long bodies have a thread, since all streams share the loop."""
    return encode() if num_bytes <= LONG_BODY_BYTES else await to_thread.run_sync(encode)


def _asked(kind: Kind, body: ChatBody | CompletionBody, plan: Plan, use: ToolUse | None) -> _Ask:
    return _Ask(
        kind=kind,
        plan=plan,
        is_stream=bool(body.stream),
        includes_usage=body.includes_usage,
        has_logprobs=plan.sampling.num_logprobs is not None,
        use=use,
    )


async def _answer(request: Request, served: Served, ask: _Ask) -> Response:
    tokenizer = served.prompts.tokenizer
    generation = Generation(
        ask.plan,
        engine=served.engine,
        bridge=served.bridge,
        decoder=quick_decoder(tokenizer),
        latencies=served.latencies,
    )
    replies = Replies(
        ask.kind,
        generation,
        model=served.model_name,
        fingerprint=served.fingerprint,
        reader=tokenizer,
        has_logprobs=ask.has_logprobs,
        includes_usage=ask.is_stream and ask.includes_usage,
        use=ask.use,
    )
    if ask.is_stream:
        is_chat = ask.kind == "chat"
        return EventStream(generation, replies, has_roles=is_chat, includes_usage=ask.includes_usage)
    try:
        return await _whole(request, replies)
    finally:
        generation.close()


async def _whole(request: Request, replies: Replies) -> Response:
    """The answer, or nothing as soon as the client hangs up."""
    answer = asyncio.create_task(replies.whole())
    hang_up = asyncio.create_task(until_gone(request.receive))
    try:
        await asyncio.wait((answer, hang_up), return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(answer.result()) if answer.done() else NOBODY_READS
    finally:
        answer.cancel()
        hang_up.cancel()


def _check_model(name: str, served: Served) -> None:
    if name != served.model_name:
        raise CallerError(
            f"the model {name[:200]!r} does not exist, this server has {served.model_name!r}",
            param="model",
            code="model_not_found",
        )


def _model_card(served: Served) -> dict[str, object]:
    return {
        "id": served.model_name,
        "object": "model",
        "created": served.created,
        "owned_by": "bowsprit",
        "root": served.model_name,
        "max_model_len": served.max_model_len,
        "digest": served.model_digest,
    }
