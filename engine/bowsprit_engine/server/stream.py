"""A stream of server-sent events over one generation, which ends with its reader.

Decides the order of chunks. Refuses to know their shapes (replies.py) and how text is made (text.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.server.errors import error_body
from bowsprit_engine.server.generation import Generation
from bowsprit_engine.server.replies import Replies

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """Closes its generation however it ends: read to the end, left by its client, or never begun."""

    def __init__(self, generation: Generation, replies: Replies, *, has_roles: bool, includes_usage: bool) -> None:
        super().__init__(
            events(generation, replies, has_roles=has_roles, includes_usage=includes_usage),
            media_type="text/event-stream",
            headers=HEADERS,
        )
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


async def events(
    generation: Generation, replies: Replies, *, has_roles: bool, includes_usage: bool
) -> AsyncIterator[bytes]:
    """Chunks as events. An error after the first byte is an event too, which OpenAI's clients raise."""
    greeted: set[int] = set()
    num_open = len(generation.plan.prompts) * generation.plan.n
    try:
        async for piece in generation.pieces():
            if has_roles and piece.index not in greeted:
                greeted.add(piece.index)
                yield _event(replies.role_chunk(piece.index))
            is_end = piece.finish_reason is not None
            num_open -= is_end
            for chunk in replies.piece_chunks(piece, is_last=num_open == 0 and not includes_usage):
                yield _event(chunk)
        if includes_usage:
            yield _event(replies.usage_chunk())
    except CallerError as error:
        yield _event(error_body(str(error), type="invalid_request_error", code=error.code))
    except WorldError as error:
        logger.warning("request %s ends in an error: %s", generation.plan.request_id, error)
        yield _event(error_body(str(error), type="server_error", code=error.reason))
    yield DONE


async def until_gone(receive: Receive) -> None:
    """Returns when the client has hung up. For requests whose body has been read."""
    message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + to_json(chunk) + b"\n\n"
