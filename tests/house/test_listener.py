"""The sockets on which both APIs are served."""

import asyncio
import socket
from typing import Any

from diminet.listener import Listener


async def _never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


def test_an_answers_body_does_not_wait_for_the_acknowledgement_of_its_headers() -> None:
    """Nagle's algorithm costs a round trip of the WAN for each request."""

    async def accepted() -> bool:
        listener = Listener(_never, "127.0.0.1", 0, name="test", grace_s=0)
        await listener.start()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert listener._server is not None
            connections = listener._server.server_state.connections
            while not connections:
                await asyncio.sleep(0.01)
            (connection,) = connections
            taken = connection.transport.get_extra_info("socket")
            writer.close()
            return bool(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        finally:
            await listener.stop()

    assert asyncio.run(asyncio.wait_for(accepted(), 30))
