"""Encodes and decodes the guest channel: strict where possible, lenient where needed.

Decoding has a fast path and a careful path. The fast path takes a line exactly as deployed peers
print it: the four header keys, the keys of its type and nothing else. msgspec decodes such a line
in under a microsecond and checks that every key is present; counting the quotes proves that no key
occurs twice. The careful path takes everything else: valid JSON in any layout, and legacy lines
whose ``name`` or ``log_msg`` holds raw quotes, backslashes, control bytes or invalid UTF-8, which
it repairs. There the first of two equal keys counts, because a tenant can inject keys after
``log_msg``, the last key. A reject must never become consent because its reason holds a quote.

:func:`decode` raises only :class:`MessageError`, whatever the bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

from hbtrio.wire.channel_messages import MESSAGE_CLASSES, Challenge, Int32, Message

VERSION: Final = 3
REVISION: Final = 1

#: Sizes of the deployed peers' C buffers without the NUL. They copy unchecked: never send more.
MAX_MESSAGE_BYTES: Final = 1056
MAX_NAME_BYTES: Final = 63
MAX_LOG_BYTES: Final = 223

#: The size of a voter's reasons, so that a message with two of them is within the limit.
MAX_VOTER_REASON_BYTES: Final = 100

#: The sizes that texts are cut to, by their keys.
TEXT_BYTES: Final = {
    "name": MAX_NAME_BYTES,
    "log_msg": MAX_LOG_BYTES,
    "reason": MAX_VOTER_REASON_BYTES,
    "answer_reason": MAX_VOTER_REASON_BYTES,
}

_FAST_HEADER: Final = re.compile(
    rb'\{"version":3,"revision":1,"msg_type":"([a-z_]{4,18})","sequence":[1-9][0-9]{0,9},'
)
_BY_TYPE: Final[dict[str, type[Message]]] = {cls.TYPE: cls for cls in MESSAGE_CLASSES}


class MessageError(Exception):
    """A line that is not a valid message.

    Attributes:
        text: what is wrong; a host sends it in a ``nack``.
        invocation_id: the message's id if it could be read, else 0.
        msg_type: the message's type if it could be read, else "".
    """

    def __init__(self, text: str, *, invocation_id: int = 0, msg_type: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.invocation_id = invocation_id
        self.msg_type = msg_type


class VersionTooOld(MessageError):
    """A message of a version below 3: a host sends ``nack``, a guest drops it (PROTOCOL.md)."""


class _Shape(msgspec.Struct, frozen=True):
    """A message type's decoder, how many quotes a line without escapes has, its required keys."""

    decoder: msgspec.json.Decoder[Any]
    quotes: int
    required: tuple[str, ...]


def _shape(cls: type[Message]) -> _Shape:
    # version, revision, msg_type and sequence are four keys and one string value.
    quotes = 4 * 2 + 2
    required = [field for field in msgspec.structs.fields(cls) if field.required]
    for field in required:  # a line with an optional key is read on the careful path
        quotes += 2 if field.type == Int32 else 4
    return _Shape(msgspec.json.Decoder(cls), quotes, tuple(field.name for field in required))


_SHAPES: Final[dict[bytes, _Shape]] = {cls.TYPE.encode(): _shape(cls) for cls in MESSAGE_CLASSES}


def decode(line: bytes) -> Message:
    """Decodes one line.

    Args:
        line: the bytes between two newlines; the caller bounds the length.

    Raises:
        VersionTooOld: the version is below 3.
        MessageError: the line is not a message, or a key is missing or has the wrong type.
    """
    header = _FAST_HEADER.match(line)
    if header is not None:
        shape = _SHAPES.get(header[1])
        plain = b"\\" not in line and b' "}' not in line
        if shape is not None and plain and line.count(b'"') == shape.quotes:
            try:
                message: Message = shape.decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # the careful path repairs the line or names the fault
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
    for key in _SHAPES[kind.encode()].required:
        if key not in members:
            refuse(f"failed to parse {key}")
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
    """Replaces lone surrogates, which JSON can express but UTF-8 (a log, a link) can't."""
    return text.encode("utf-8", "replace").decode()


_JSON: Final = json.JSONDecoder(object_pairs_hook=_first_wins)

#: The text before and after the name in every ``init`` of a deployed client.
_LEGACY_NAME: Final = '"name":"'
_LEGACY_NAME_END: Final = '","heartbeat_interval_ms":'
_LEGACY_LOG: Final = re.compile(r',\s*"log_msg"\s*:\s*"')


def _members(text: str) -> dict[str, Any]:
    """Parses the JSON object in ``text``, with the repair of a legacy sender's unescaped text."""
    members = _load(text)
    if members is None or ("\\" in text and next(reversed(members), "") == "log_msg"):
        # Who prints log_msg last doesn't escape, so a backslash in it is one. Our own guest sends
        # none, see plain_text.
        members = _repair(text) or members
    if members is None:
        raise MessageError("failed to parse message: not a JSON object")
    reason = members.get("log_msg")
    if isinstance(reason, str):
        # A deployed client joins the lines of a script with blanks, and adds one behind the last.
        members["log_msg"] = reason.rstrip(" ")
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
    # Everything after the first log_msg is its text: a sender that doesn't escape prints it last.
    log = _LEGACY_LOG.search(text)
    if log is not None:
        reason = text[log.end() :]
        saved["log_msg"] = reason.removesuffix("}").rstrip().removesuffix('"')
        text = text[: log.start()] + "}"
    # No regular expression: a lazy one takes 20 ms on a tenant's line full of `"name":"`.
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
    """Returns the longest prefix of ``text`` that has at most ``max_bytes`` in UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text
    return data[:max_bytes].decode("utf-8", "ignore")


#: Deployed hosts paste a reason into JSON without escaping it: a quote or a backslash loses the
#: whole verdict (measured), and a guest can't tell which host is at the other end.
_PLAIN: Final = {
    ord('"'): "'",
    ord("\\"): "/",
    0xFFFD: "?",
} | dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")


def plain_text(text: str, max_bytes: int) -> str:
    """Replaces quotes, backslashes and control characters, which deployed peers can't parse.

    Args:
        text: any text.
        max_bytes: the size limit of the result, in bytes of UTF-8.
    """
    return clip_utf8(_whole(text).translate(_PLAIN).strip(), max_bytes).rstrip()


#: The keys that deployed peers don't have: they are there only if they say something.
_LEFT_OUT: Final = frozenset({"extensions", "planned_at"})

_CHALLENGE: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"challenge","sequence":%d,"heartbeat_challenge":%d}\n'
)


def encode(message: Message, sequence: int) -> bytes:
    """Encodes one message as ``\\n{...}\\n``, with keys in legacy order and within legacy limits.

    Args:
        message: the message; :func:`plain_text` is applied to the texts in :data:`TEXT_BYTES`.
        sequence: the sender's counter; it starts at 1 and wraps at 31 bits.
    """
    sequence &= 0x7FFFFFFF
    if type(message) is Challenge:  # nearly all of a host's messages
        return _CHALLENGE % (sequence, message.heartbeat_challenge)
    members: dict[str, Any] = {
        "version": VERSION,
        "revision": REVISION,
        "msg_type": message.TYPE,
        "sequence": sequence,
    }
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name in _LEFT_OUT and not value:
            continue
        limit = TEXT_BYTES.get(name)
        members[name] = value if limit is None else plain_text(value, limit)
    return b"\n" + msgspec.json.encode(members) + b"\n"
