"""The OpenAI port: from an HTTP body to a generation and its answer.

Each handler reads in order: body, prompt, plan, generation, answer. Everything that may be wrong with a request is
raised as CallerError before anything runs.
"""

from __future__ import annotations

import asyncio
import secrets
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

from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server import errors, openapi
from bowsprit_engine.server.edge import Edge, read_body
from bowsprit_engine.server.generation import Generation, Plan
from bowsprit_engine.server.lifecycle import Lifecycle, Served
from bowsprit_engine.server.replies import Kind, Replies
from bowsprit_engine.server.sampling import sampling_params, speculation_params
from bowsprit_engine.server.stream import EventStream, until_gone
from bowsprit_engine.server.structured import Structure, has_form, structure_of
from bowsprit_engine.server.text import quick_decoder
from bowsprit_engine.server.tools import ToolUse, call_structure, tool_use
from bowsprit_engine.server.wire import MAX_CHOICES, ChatBody, CompletionBody

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
        grammar = await _grammar(body, served, use)
        plan = _plan(body, request, served, prompts=[prompt], prefix="chatcmpl", grammar=grammar)
        return await _answer(request, served, _asked("chat", body, plan, use))

    async def complete(self, request: Request) -> Response:
        served = self._lifecycle.ready()
        content = await self._read(request)
        if content is None:
            return NOBODY_READS
        body, num_bytes = _parsed(content, CompletionBody), len(content)
        _check_model(body.model, served)
        prompts = await _beside(partial(served.prompts.completion, body), num_bytes=num_bytes)
        grammar = await _grammar(body, served, None)
        plan = _plan(body, request, served, prompts=prompts, prefix="cmpl", grammar=grammar)
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


async def _grammar(body: ChatBody | CompletionBody, served: Served, use: ToolUse | None) -> CompiledGrammar | None:
    """What the answer must keep to, None for nothing. Calls that may be made, but needn't, are not held to schemas that
    can't be executed: free text is allowed then, and so is a call with other arguments."""
    is_promised = has_form(body) or (use is not None and use.must_call)
    if body.ignore_eos and is_promised:
        raise CallerError("ignore_eos can't be combined with an answer's form: its end ends it", param="ignore_eos")
    if body.ignore_eos or (use is None and not is_promised):
        return None

    def structure() -> Structure | None:
        answer = structure_of(body)
        return answer if use is None else call_structure(use, answer)

    try:
        return await served.grammars.compile(structure, names_place=is_promised)
    except CallerError:
        if is_promised:
            raise
        return None


def _plan(
    body: ChatBody | CompletionBody,
    request: Request,
    served: Served,
    *,
    prompts: list[tuple[int, ...]],
    prefix: str,
    grammar: CompiledGrammar | None,
) -> Plan:
    n = body.n or 1
    if len(prompts) * n > MAX_CHOICES:
        raise CallerError(f"n is {n}, the limit is {MAX_CHOICES} choices over all {len(prompts)} prompts", param="n")
    for prompt in prompts:
        _check_tokens(prompt, served.vocab_size, "messages" if isinstance(body, ChatBody) else "prompt")
    sampling = sampling_params(
        body,
        longest_prompt=max(len(prompt) for prompt in prompts),
        max_model_len=served.max_model_len,
        vocab_size=served.vocab_size,
    )
    return Plan(
        request_id=f"{prefix}-{secrets.token_hex(12)}",
        prompts=prompts,
        n=n,
        sampling=sampling,
        speculation=speculation_params(body),
        grammar=grammar,
        stops=body.stop_texts,
        goes_on=isinstance(body, CompletionBody),
        tenant=served.capture.tenant(request.headers, user=body.user),
        capture_allowed=served.capture.is_allowed(request.headers),
    )


def _check_tokens(prompt: tuple[int, ...], vocab_size: int, param: str) -> None:
    if not prompt:
        raise CallerError(f"{param}: the prompt is empty, the least is 1 token", param=param)
    largest = max(prompt)
    if largest >= vocab_size:
        raise CallerError(
            f"{param}: token {largest} is not in the vocabulary, the limit is {vocab_size - 1}", param=param
        )


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
