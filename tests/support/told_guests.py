"""Many guests on real sockets in the test's own process, which note all that they are told."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Final

import attrs
import trio

from support.guest_farm_process import ACTIONS, ANSWER, CHALLENGES, INIT, channel_name, uuid_of

_RESPONSE: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"action_response","sequence":%d,"invocation_id":%b,'
    b'"event_type":"%b","notification_type":"%b","vote_result":"%b","log_msg":"%b"}\n'
)

#: How often each is challenged, in milliseconds.
_INTERVAL_MS: Final = 1000

_BYTES: Final = 4096


@attrs.frozen
class Told:
    """What a guest was asked or told: a vote (``revocable``) or a notice on an event."""

    uuid: str
    kind: str
    event: str


class ToldGuests:
    """Guests; each agrees at once, but for those that reject.

    Args:
        directory: of their channels.
        nursery: serves them.
        first: the number of the first.
    """

    def __init__(self, directory: Path, nursery: trio.Nursery, first: int = 0) -> None:
        #: Why a guest rejects votes, by its uuid.
        self.rejects: dict[str, str] = {}
        #: How many more votes it rejects; without an entry all.
        self.rejects_left: dict[str, float] = defaultdict(lambda: math.inf)
        #: All that was said to them, in the order in which it was read.
        self.told: list[Told] = []
        self.uuids: list[str] = []
        self._directory = directory
        self._nursery = nursery
        self._first = first

    async def listen(self, count: int) -> None:
        """Makes so many more guests and their channels; they are named guest-0 and so on."""
        for _ in range(count):
            index = self._first + len(self.uuids)
            listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            await listener.bind(str(self._directory / channel_name(index)))
            listener.listen()
            self.uuids.append(uuid_of(index))
            self._nursery.start_soon(self._serve, listener, index)

    def notices(self, uuid: str) -> list[str]:
        """The events that a guest was told of, in their order."""
        return [one.event for one in self.told if one.uuid == uuid and one.kind == "irrevocable"]

    async def _serve(self, listener: trio.socket.SocketType, index: int) -> None:
        with listener:
            while True:
                # A host that comes back replaces the one that was killed, whose end is read first.
                connection, _ = await listener.accept()
                with connection:
                    await self._answer(connection, index)

    async def _answer(self, connection: trio.socket.SocketType, index: int) -> None:
        sequence, uuid = 1, uuid_of(index)
        stream = trio.SocketStream(connection)
        try:
            await stream.send_all(INIT % (1000 + index, index, _INTERVAL_MS))
            async for data in stream:
                answers = [(ANSWER, (number,)) for number in CHALLENGES.findall(data)]
                for id_, event, kind in ACTIONS.findall(data):
                    self.told.append(Told(uuid, kind.decode(), event.decode()))
                    result, why = self._result(uuid, kind.decode())
                    answers.append((_RESPONSE, (id_, event, kind, result, why)))
                for template, values in answers:
                    sequence += 1
                    await stream.send_all(template % (sequence, *values))
        except trio.BrokenResourceError:
            return  # the host was killed

    def _result(self, uuid: str, kind: str) -> tuple[bytes, bytes]:
        if kind == "revocable" and uuid in self.rejects and self.rejects_left[uuid] > 0:
            self.rejects_left[uuid] -= 1
            return b"reject", self.rejects[uuid].encode()
        return (b"accept" if kind == "revocable" else b"complete"), b""
