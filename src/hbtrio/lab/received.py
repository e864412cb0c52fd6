"""Reads a whole HTTP request from a stream, without a framework."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs
import trio

#: The limits of a request; the connection of a longer one is reset.
_HEAD_BYTES: Final = 65536
_BODY_BYTES: Final = 1 << 20

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,9}) *\r\n", re.IGNORECASE)


@attrs.frozen
class Received:
    """A complete request.

    Args:
        time: when it was read, on trio's clock, in seconds.
        raw: all bytes of the request.
        method: GET or PATCH.
        target: the path with its query.
        headers: by name in lower case; of several with one name, the last.
        body: the bytes of the body.
    """

    time: float
    raw: bytes
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def read_request(stream: trio.abc.ReceiveStream, *, half: bool) -> Received | None:
    """Reads a request; None if it is too long or incomplete, or after half the body if ``half``.

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
