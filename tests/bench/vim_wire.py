"""The VIM's HTTP by hand, on blocking sockets: whoever measures must not be what takes the time."""

from __future__ import annotations

import re
import socket
from typing import Final

import attrs

from support.agent_world import request_bytes

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

#: Much longer than anything takes that is measured, in seconds.
PATIENCE_S: Final = 30.0


@attrs.frozen
class Target:
    """Something that serves the VIM on a port of the loopback: an agent or a floor.

    Args:
        name: what the report calls it.
        port: where it serves.
        uuid: the instance that is asked.
    """

    name: str
    port: int
    uuid: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads what :meth:`__str__` wrote."""
        name, port, uuid = text.split("=")
        return cls(name, int(port), uuid)

    def __str__(self) -> str:
        return f"{self.name}={self.port}={self.uuid}"

    def vote(self) -> bytes:
        """A vote on its instance."""
        body = {"uuid": self.uuid, "hostname": "compute-0", "action": "stop"}
        return request_bytes("POST", f"/v1/instances/{self.uuid}/vote", body)

    def dial(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


def is_whole(data: bytes | bytearray) -> bool:
    """Whether this is a whole request or answer with a length, or one without a body."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)
