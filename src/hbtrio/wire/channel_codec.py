"""Bytes to messages and back for the guest channel: strict where possible, lenient where needed.

Decoding has two roads. The fast road takes a line exactly as deployed peers print it: the four
keys of the header, the keys of its type and nothing else. msgspec decodes it in under a
microsecond and finds every key of the type, so a count of the quotes proves that none stands
twice. Everything else takes the careful road: valid JSON in any layout, where the first of two
equal keys counts (a tenant can inject keys behind ``log_msg``, which is last), and the repair of
legacy lines whose ``name`` or ``log_msg`` holds raw quotes, backslashes, control bytes or broken
UTF-8. A reject must never turn into consent because its reason has a quote in it.

Whatever the bytes, :func:`decode` raises nothing but :class:`MessageError`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import attrs
import msgspec

from hbtrio.wire.channel_messages import MESSAGE_CLASSES, Challenge, Message

VERSION: Final = 3
REVISION: Final = 1

#: The C buffers of deployed peers, without their NUL. They copy without a check: never send more.
MAX_MESSAGE_BYTES: Final = 1056
MAX_NAME_BYTES: Final = 63
MAX_LOG_BYTES: Final = 223

_FAST_HEADER: Final = re.compile(
    rb'\{"version":3,"revision":1,"msg_type":"([a-z_]{4,18})","sequence":[1-9][0-9]{0,9},'
)
_BY_TYPE: Final[dict[str, type[Message]]] = {cls.TYPE: cls for cls in MESSAGE_CLASSES}


class MessageError(Exception):
    """A line that is no message we can use.

    Attributes:
        text: what is wrong, as a host says it in a ``nack``.
        invocation_id: the id of the faulty message where one could be read, else 0.
        msg_type: its type where one could be read, else "".
    """

    def __init__(self, text: str, *, invocation_id: int = 0, msg_type: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.invocation_id = invocation_id
        self.msg_type = msg_type


class VersionTooOld(MessageError):
    """A version below 3: a host answers it with ``nack``, a guest drops it (PROTOCOL.md)."""


@attrs.frozen
class _Shape:
    """What the fast road knows of a type: its decoder and the quotes of its plainest line."""

    decoder: msgspec.json.Decoder[Any]
    quotes: int


def _shape(cls: type[Message]) -> _Shape:
    # version, revision, msg_type and sequence are four keys and one string value.
    quotes = 4 * 2 + 2
    for field in attrs.fields(cls):
        quotes += 2 if field.type == "Int32" else 4
    return _Shape(msgspec.json.Decoder(cls), quotes)


_SHAPES: Final[dict[bytes, _Shape]] = {cls.TYPE.encode(): _shape(cls) for cls in MESSAGE_CLASSES}

_FIELDS: Final[dict[type[Message], tuple[str, ...]]] = {
    cls: tuple(field.name for field in attrs.fields(cls)) for cls in MESSAGE_CLASSES
}


def decode(line: bytes) -> Message:
    """The message on one line.

    Args:
        line: the bytes between two newlines, of any content; the caller bounds their number.

    Raises:
        VersionTooOld: its version is below 3.
        MessageError: it is no message, or a key is missing or of the wrong type.
    """
    header = _FAST_HEADER.match(line)
    if header is not None:
        shape = _SHAPES.get(header[1])
        if shape is not None and line.count(b'"') == shape.quotes:
            try:
                message: Message = shape.decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # the careful road finds out what can be saved, and names the fault if not
            else:
                return message
    return _decode_carefully(line)


def _decode_carefully(line: bytes) -> Message:
    members = _members(line.decode("utf-8", "replace"))
    version = members.get("version")
    msg_type = members.get("msg_type")
    invocation_id = members.get("invocation_id")
    if type(invocation_id) is not int or not -(2**31) <= invocation_id < 2**32:
        invocation_id = 0
    kind = msg_type if isinstance(msg_type, str) else ""

    def refuse(text: str, error: type[MessageError] = MessageError) -> NoReturn:
        raise error(text, invocation_id=invocation_id, msg_type=kind[:32])

    if type(version) is not int:
        refuse("failed to parse version")
    if version < VERSION:
        refuse(f"version {max(version, -(2**31))} is not supported", VersionTooOld)
    for key, wanted in (("revision", int), ("msg_type", str), ("sequence", int)):
        if type(members.get(key)) is not wanted:
            refuse(f"failed to parse {key}")
    cls = _BY_TYPE.get(kind)
    if cls is None:
        refuse(f"unknown msg_type {kind[:32]}")
    for field in attrs.fields(cls):
        if field.name not in members:
            refuse(f"failed to parse {field.name}")
    try:
        return msgspec.convert(members, cls)
    except msgspec.ValidationError as error:
        # msgspec ends its text with the path: "... - at `$.heartbeat_response`".
        refuse(f"failed to parse {str(error).rpartition('$.')[2].rstrip('`') or kind}")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        members.setdefault(_whole(key), _whole(value) if isinstance(value, str) else value)
    return members


def _whole(text: str) -> str:
    """``text`` without lone surrogates: JSON can spell them, UTF-8 (a log, a link) can not."""
    return text.encode("utf-8", "replace").decode()


_JSON: Final = json.JSONDecoder(object_pairs_hook=_first_wins)

#: What stands before and behind the name in every init that a deployed client prints.
_LEGACY_NAME: Final = '"name":"'
_LEGACY_NAME_END: Final = '","heartbeat_interval_ms":'
_LEGACY_LOG: Final = re.compile(r',\s*"log_msg"\s*:\s*"')


def _members(text: str) -> dict[str, Any]:
    """The members of the object in ``text``, repaired where a legacy sender left it unescaped."""
    members = _load(text)
    if members is None:
        members = _repair(text)
    if members is None:
        raise MessageError("failed to parse message: not a JSON object")
    return members


def _load(text: str) -> dict[str, Any] | None:
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _repair(text: str) -> dict[str, Any] | None:
    text = text.strip()
    saved: dict[str, Any] = {}
    # Everything behind the first log_msg is its text: a sender that does not escape prints it last.
    log = _LEGACY_LOG.search(text)
    if log is not None:
        reason = text[log.end() :]
        saved["log_msg"] = reason.removesuffix("}").rstrip().removesuffix('"')
        text = text[: log.start()] + "}"
    # Not a pattern: a lazy one takes 20 ms for a tenant's line that is full of `"name":"`.
    before, opening, rest = text.partition(_LEGACY_NAME)
    name, closing, behind = rest.partition(_LEGACY_NAME_END)
    if closing:
        saved["name"] = name
        text = before + opening + closing + behind
    if not saved:
        return None
    members = _load(text)
    return None if members is None else {**members, **saved}


def clip_utf8(text: str, max_bytes: int) -> str:
    """The longest beginning of ``text`` that is at most ``max_bytes`` long in UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text
    return data[:max_bytes].decode("utf-8", "ignore")


#: Deployed hosts paste a reason into JSON of their own without escaping it: a quote or a backslash
#: loses the whole verdict there (measured), and a guest can't tell which host it talks to.
_PLAIN: Final = {
    ord('"'): "'",
    ord("\\"): "/",
    0xFFFD: "?",
} | dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")


def plain_text(text: str, max_bytes: int) -> str:
    """``text`` as every deployed peer can digest it: no quote, backslash or control character.

    Args:
        text: any text.
        max_bytes: its size limit in UTF-8.
    """
    return clip_utf8(_whole(text).translate(_PLAIN).strip(), max_bytes).rstrip()


_CHALLENGE: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"challenge","sequence":%d,"heartbeat_challenge":%d}\n'
)


def encode(message: Message, sequence: int) -> bytes:
    """One message as ``\\n{...}\\n``, its keys in legacy order, within every deployed limit.

    Args:
        message: what to send; ``name`` and ``log_msg`` are clipped and made plain.
        sequence: the sender's counter; it starts at 1 and stays in 31 bits.
    """
    sequence &= 0x7FFFFFFF
    if type(message) is Challenge:  # nearly all that a host sends
        return _CHALLENGE % (sequence, message.heartbeat_challenge)
    members: dict[str, Any] = {
        "version": VERSION,
        "revision": REVISION,
        "msg_type": message.TYPE,
        "sequence": sequence,
    }
    for name in _FIELDS[type(message)]:
        value = getattr(message, name)
        if name == "log_msg":
            value = plain_text(value, MAX_LOG_BYTES)
        elif name == "name":
            value = plain_text(value, MAX_NAME_BYTES)
        members[name] = value
    return b"\n" + msgspec.json.encode(members) + b"\n"
