"""A webhook's other end on raw sockets, which answers as it is told."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from hbtrio.lab.received import Received, read_request
from hbtrio.nursery.wakeup import WakeUp

OK = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


class Receiver:
    """What was received, and what is answered.

    Args:
        context: for TLS.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.requests: list[Received] = []
        self.port = 0
        #: What the next requests are answered with, then :data:`OK`; None: nothing ever.
        self.answers: list[bytes | None] = []
        self._context = context
        self._news = WakeUp()

    @property
    def url(self) -> str:
        """Where to post to."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/hook?x=1"

    async def wait_for(self, count: int, within_s: float = 30.0) -> list[Received]:
        """Waits until so many requests were received."""
        with trio.fail_after(within_s):
            while len(self.requests) < count:
                await self._news.wait()
        return self.requests

    async def serve(self, plain: trio.SocketStream) -> None:
        """Serves one connection."""
        try:
            async with plain:
                if self._context is not None:
                    stream = trio.SSLStream(plain, self._context, server_side=True)
                    await self._answer(stream)
                else:
                    await self._answer(plain)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone

    async def _answer(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        received = await read_request(stream, half=False)
        assert received is not None
        self.requests.append(received)
        self._news.set()
        answer = self.answers.pop(0) if self.answers else OK
        if answer is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(answer)


@asynccontextmanager
async def webhook_receiver(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on the loopback."""
    receiver = Receiver(context)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    receiver.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        yield receiver
        nursery.cancel_scope.cancel()
