"""The deployed client's reader of a host's messages: keys by name, into C buffers of fixed size.

As measured (PROTOCOL.md, what a deployed C client does): a message is what stands between newlines,
keys are looked up by name, others are ignored, a string of more than 31 bytes overwrites what lies
behind its buffer, and an integer above 2^31-1 is clamped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

#: Its buffers without the NUL, and a whole message.
STRING_BYTES: Final = 31
MESSAGE_BYTES: Final = 1056

#: The keys that it looks up, by ``msg_type``.
KEYS: Final = {
    "init_ack": ("invocation_id",),
    "challenge": ("heartbeat_challenge",),
    "action_notify": ("invocation_id", "event_type", "notification_type", "timeout_ms"),
    "nack": ("invocation_id", "log_msg"),
}


class Crashed(Exception):
    """The client would have written behind a buffer."""


def read_messages(data: bytes) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Reads what a host sent; yields the type and the values of each usable message.

    Raises:
        Crashed: a message or a string does not fit.
    """
    for line in filter(None, data.split(b"\n")):
        if len(line) + 2 > MESSAGE_BYTES:
            raise Crashed(f"a message of {len(line) + 2} bytes")
        members = json.loads(line)
        kind = members.get("msg_type", "")
        if members.get("version", 0) < 3 or not all(key in members for key in KEYS[kind]):
            continue
        values = tuple(_into_buffer(members[key]) for key in ("msg_type", *KEYS[kind]))
        yield kind, values[1:]


def _into_buffer(value: Any) -> Any:
    if isinstance(value, str):
        if len(value.encode()) > STRING_BYTES:
            raise Crashed(f"a string of {len(value.encode())} bytes")
        return value
    return min(value, 2**31 - 1)


def answers(data: bytes) -> Iterator[tuple[str, int]]:
    """What a client that has sent its first ``init`` answers to all this: the type and its echo."""
    enabled = False
    for kind, values in read_messages(data):
        if kind == "init_ack":
            enabled = True
        elif kind == "challenge" and enabled:
            yield "challenge_response", values[0]
        elif kind == "action_notify":
            yield "action_response", values[0]
