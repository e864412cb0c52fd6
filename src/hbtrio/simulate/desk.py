"""Simulates where operators sit: a process that asks daemons through their sockets, as ctl does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import h11

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process

_OK: Final = 200

_ROOT: Final = ConnectionEnds(credentials=PeerCredentials(1, 0, 0))


class Desk:
    """A desk.

    Args:
        stage: what all parts use.
    """

    def __init__(self, stage: Stage) -> None:
        machine = Machine(stage.timeline, "desk")
        self.process = Process(machine, stage.timeline, stage.trace, "operators")
        self._network = stage.network

    async def ask(
        self, address: str, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Sends a request and yields the lines of the answer; none of a refusal.

        Raises:
            OSError: nobody listens there.
            trio.BrokenResourceError: the connection was reset.
            h11.RemoteProtocolError: the answer ended before it was complete.
        """
        stream = await self._network.connect(self.process, address, _ROOT)
        parser = h11.Connection(h11.CLIENT)
        content = b"" if body is None else json.dumps(body).encode()
        headers = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        request = h11.Request(method=method, target=path, headers=list(headers.items()))
        events = (request, h11.Data(content), h11.EndOfMessage())
        rest, status = b"", 0
        async with stream:
            await stream.send_all(b"".join(parser.send(event) or b"" for event in events))
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    parser.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    *lines, rest = (rest + bytes(event.data)).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
        if rest and status == _OK:
            yield json.loads(rest)
