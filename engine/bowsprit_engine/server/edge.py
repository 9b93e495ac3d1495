"""What every response of the serving port has in common: its request id, the body limit, and how a drain ends it.

Pure ASGI, so that streams pass through untouched. Refuses to know what is behind a path.
"""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.lifecycle import Lifecycle

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")


class Edge:
    """Counts requests in flight. While draining, responses ask their client to open another connection elsewhere."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if self._lifecycle.is_draining:
                    headers["connection"] = "close"
            await send(message)

        self._lifecycle.enter()
        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._lifecycle.leave()


async def read_body(receive: Receive, headers: Headers, *, limit: int) -> bytes | None:
    """The whole body, None when the client hung up within it. Raises CallerError (413) beyond `limit` bytes."""
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(int(declared), limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(len(body), limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(size: int, limit: int) -> CallerError:
    return CallerError(f"the body has at least {size} bytes, the limit is {limit}", code="body_too_large")
