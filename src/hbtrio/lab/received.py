"""A request as a server without a framework reads it: whole, or not at all."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs
import trio

#: Of one request; what is longer is reset.
_HEAD_BYTES: Final = 65536
_BODY_BYTES: Final = 1 << 20

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,9}) *\r\n", re.IGNORECASE)


@attrs.frozen
class Received:
    """A request that was read whole.

    Args:
        time: trio's clock, in seconds.
        raw: every byte of it.
        method: GET or PATCH.
        target: path with its query.
        headers: by name in lower case; of equal ones the last.
        body: its bytes.
    """

    time: float
    raw: bytes
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body decoded; None if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def read_request(stream: trio.SocketStream, *, half: bool) -> Received | None:
    """Reads a request; None: it is too long, was given up, or only half of its body is wanted.

    Raises:
        trio.BrokenResourceError: the connection was reset.
    """
    raw = bytearray()
    while (end := raw.find(b"\r\n\r\n")) < 0:
        chunk = await stream.receive_some(4096)
        if not chunk or len(raw) > _HEAD_BYTES:
            return None
        raw += chunk
    found = _LENGTH.search(raw, 0, end + 2)
    length = int(found[1]) if found else 0
    start = end + 4
    wanted = start + (length // 2 if half else length)
    while len(raw) < wanted:
        chunk = await stream.receive_some(65536)
        if not chunk or length > _BODY_BYTES:
            return None
        raw += chunk
    if half:
        return None
    lines = raw[:end].decode("latin-1").split("\r\n")
    method, target, *_ = (*lines[0].split(" "), "", "")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    return Received(
        time=trio.current_time(),
        raw=bytes(raw),
        method=method,
        target=target,
        headers=headers,
        body=bytes(raw[start:]),
    )
