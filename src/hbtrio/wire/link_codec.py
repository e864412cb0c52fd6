"""Encodes and decodes the host-agent link: one JSON object per line, ``type`` first."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from hbtrio.wire.link_messages import (
    FROM_AGENT,
    FROM_HOST,
    FromAgent,
    FromHost,
    Instance,
    LinkMessage,
)
from hbtrio.wire.link_parts import LinkRequest, LinkRound, LinkVoter

#: The longest line of a link, in bytes: a report's reason and an action's output fit easily.
MAX_LINK_LINE: Final = 16384

#: The state of an instance that is heartbeating: the word of older hosts, and ours.
_OLD_STATE: Final = "beating"
_STATE: Final = "heartbeating"


class LinkError(Exception):
    """A line that is not a valid message of the peer; the session ends."""


@attrs.frozen
class _Typed:
    type: str


_TYPE: Final = msgspec.json.Decoder(_Typed)
_OF_HOST: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    cls.TYPE: msgspec.json.Decoder(cls) for cls in FROM_HOST
}
_OF_AGENT: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    cls.TYPE: msgspec.json.Decoder(cls) for cls in FROM_AGENT
}


def decode_from_host(line: bytes) -> FromHost:
    """Decodes a message from a host.

    Raises:
        LinkError: the line is not a valid host message.
    """
    message: FromHost = _decode(line, _OF_HOST)
    if type(message) is Instance and message.state == _OLD_STATE:
        return attrs.evolve(message, state=_STATE)
    return message


def decode_from_agent(line: bytes) -> FromAgent:
    """Decodes a message from an agent.

    Raises:
        LinkError: the line is not a valid agent message.
    """
    message: FromAgent = _decode(line, _OF_AGENT)
    return message


def _decode(line: bytes, decoders: dict[str, msgspec.json.Decoder[Any]]) -> Any:
    try:
        kind = _TYPE.decode(line).type
        decoder = decoders.get(kind)
        if decoder is None:
            raise LinkError(f"unknown type {kind[:32]!r}")
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(str(error)) from error


def _utf8(value: Any) -> Any:
    # Text decoded from JSON may hold a lone surrogate, which UTF-8 can't encode.
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, tuple):
        return tuple(map(_utf8, value))
    if isinstance(value, LinkVoter | LinkRequest | LinkRound):
        return {
            field.name: _utf8(getattr(value, field.name)) for field in attrs.fields(type(value))
        }
    return value


def encode_link(message: LinkMessage) -> bytes:
    """Encodes one message as a line with its newline.

    Raises:
        LinkError: the line is longer than ``MAX_LINK_LINE``; callers bound the texts.
    """
    members: dict[str, Any] = {"type": message.TYPE}
    for field in attrs.fields(type(message)):
        members[field.name] = _utf8(getattr(message, field.name))
    line = msgspec.json.encode(members)
    if len(line) > MAX_LINK_LINE:
        raise LinkError(f"{message.TYPE} of {len(line)} bytes is longer than {MAX_LINK_LINE}")
    return line + b"\n"
