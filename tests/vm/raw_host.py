"""Speaks the channel's words to one guest: no pacer and no state of its own."""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.wire.channel_codec import decode, encode
from hbtrio.wire.channel_messages import Message
from hbtrio.wire.lines import LineReader

_ANSWER_S: Final = 10.0


class RawHost:
    """The host's side of one channel.

    Args:
        stream: QEMU's socket of the port.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines = LineReader()
        self._heard: list[Message] = []
        self._sequence = 0

    async def say(self, message: Message) -> None:
        """Sends a message; waits while QEMU takes none."""
        self._sequence += 1
        await self._stream.send_all(encode(message, self._sequence))

    async def hear(self, within_s: float = _ANSWER_S) -> Message:
        """The guest's next message."""
        with trio.fail_after(within_s):
            while not self._heard:
                data = await self._stream.receive_some(4096)
                assert data, "QEMU hung up"
                self._heard += [decode(line) for line in self._lines.feed(bytes(data))]
        return self._heard.pop(0)
