"""A client that neither sends nor reads can't keep the server from ending."""

from __future__ import annotations

import asyncio

from bowsprit_engine.server.app import create_app
from bowsprit_engine.server.listeners import Listener
from server.running_server import Serve


async def test_a_port_ends_though_a_client_never_sends_the_rest_of_its_body(serve: Serve) -> None:
    """Its request is cut off and counts as answered: the process has captured traffic to write, and a deadline."""
    lifecycle = (await serve()).lifecycle
    app = create_app(lifecycle, max_body_bytes=1000)
    listener = Listener(app, host="127.0.0.1", port=0, name="test", close_seconds=0)
    await listener.start()
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
    async with asyncio.timeout(30):
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        await listener.stop()
        await lifecycle.is_idle.wait()
    writer.close()
    assert lifecycle.num_in_flight == 0
