"""Bytes from structs, and structs from bytes.

Reading is strict in type, so that a server that is neither a host nor an agent is found out at
once; and lenient towards what is new: unknown members are ignored, unknown words are taken as they
are. The texts may be a tenant's. What is written has their unprintable characters as JSON escapes,
so that a reader that prints a body or line as it is prints no control sequence. Once decoded they
are as the tenant wrote them: whoever prints them makes them fit for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from hbtrio.text import printable_json
from hbtrio.wire.operator.detail import FleetInstanceDetail, InstanceDetail
from hbtrio.wire.operator.events import AnyEventLine, EventLine, FleetEventLine
from hbtrio.wire.operator.fleet import FleetStatus
from hbtrio.wire.operator.host import Status

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder()


class ReplyFault(Exception):
    """What came is not what a daemon answers; the text says why, without any of its words."""


class _Origin(msgspec.Struct, frozen=True):
    """The members that tell an agent's answers from a host's."""

    agent: Any = None
    beats: Any = None
    hostname: str = ""


def encode(value: Any) -> bytes:
    """A body as compact JSON, with unprintable characters as escapes.

    Args:
        value: one of this package's structs or requests, or a list or dict of them. Half a
            surrogate pair in a text, which came out of somebody's JSON, becomes a question mark.
    """
    try:
        return printable_json(_ENCODER.encode(value))
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value)
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        return printable_json(text.encode("utf-8", "replace"))


def encode_line(line: msgspec.Struct) -> bytes:
    """A line of a stream as JSON, without its newline; with a blank after each comma and colon."""
    return msgspec.json.format(encode(line), indent=0)


def encode_members(cls: type[msgspec.Struct], parts: Mapping[str, bytes]) -> bytes:
    """A struct of members that were encoded one by one.

    Args:
        cls: which struct.
        parts: its members by name, as JSON.

    Raises:
        KeyError: one is missing.
    """
    names = cls.__struct_fields__
    return _ENCODER.encode({name: msgspec.Raw(parts[name]) for name in names})


def parse_status(data: bytes) -> Status | FleetStatus:
    """Reads the status of a host or of an agent.

    Raises:
        ReplyFault: it is neither.
    """
    if parse(data, _Origin).agent is None:
        return parse(data, Status)
    return parse(data, FleetStatus)


def parse_event(data: bytes) -> AnyEventLine:
    """Reads an event of a host or of an agent, all of whose events name a host.

    Raises:
        ReplyFault: it is neither.
    """
    if parse(data, _Origin).hostname:
        return parse(data, FleetEventLine)
    return parse(data, EventLine)


def parse_detail(data: bytes) -> InstanceDetail | FleetInstanceDetail:
    """Reads what a host or an agent knows of one instance; only a host counts beats.

    Raises:
        ReplyFault: it is neither.
    """
    if parse(data, _Origin).beats is None:
        return parse(data, FleetInstanceDetail)
    return parse(data, InstanceDetail)


def parse(data: bytes, cls: type[T]) -> T:
    """Reads one reply.

    Args:
        data: a JSON text.
        cls: one of this package's structs, or ``dict`` for whatever object it is.

    Raises:
        ReplyFault: it is not JSON, is nested too deeply, or is of another shape.
    """
    try:
        return msgspec.json.decode(data, type=cls)
    except msgspec.ValidationError as error:
        # The text names types and the path, the keys of which may be anybody's words.
        raise ReplyFault(str(error).partition(" - at ")[0]) from error
    except (ValueError, RecursionError) as error:
        raise ReplyFault("not JSON") from error
