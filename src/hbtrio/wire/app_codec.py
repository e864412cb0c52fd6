"""Encodes and decodes the application API: C structs of one size on a stream.

Every message has a header of 20 bytes and a body of 208 bytes, padded with zeros. Numbers have the
machine's byte order and alignment, because both ends run on the same machine.

The structs don't show three properties of deployed peers. Health is a C ``bool``: 0 is unhealthy,
1 is healthy, and a deployed guest reads any other number as healthy too. ``size`` in the header is
written but never read. A reader that meets another version continues after the magic, so a magic
within garbage doesn't cost it the next message.

Decoding never raises, whatever the bytes.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInhibit,
    AppInit,
    AppInitAck,
    AppMessage,
    AppMoreTime,
    AppReady,
    AppTimeGranted,
)
from hbtrio.wire.app_messages import Final as FinalMessage
from hbtrio.wire.channel_codec import clip_utf8
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

MAGIC: Final = b"FDFDA5A5"
VERSION: Final = 2
REVISION: Final = 1

MESSAGE_BYTES: Final = 228

#: Sizes of the C buffers without the terminating NUL.
MAX_APP_NAME_BYTES: Final = 39
MAX_APP_LOG_BYTES: Final = 191

#: Magic, version, revision, type, sequence, size.
_HEADER: Final = struct.Struct("@8sBBHII")


class _Field(msgspec.Struct, frozen=True):
    """One member of a C struct: its :mod:`struct` format code and its conversions."""

    code: str
    pack: Callable[[Any], int | bytes]
    unpack: Callable[[Any], Any]


def _text(max_bytes: int) -> _Field:
    def pack(text: str) -> bytes:
        # A reader stops at the first NUL and would lose the rest of the text.
        clipped = clip_utf8(text.replace("\0", " "), max_bytes)
        return clipped.encode("utf-8", "replace")

    def unpack(data: bytes) -> str:
        return data.partition(b"\0")[0].decode("utf-8", "replace")

    return _Field(f"{max_bytes + 1}s", pack, unpack)


def _word(*members: Any) -> _Field:
    """Returns an enum field: a member's number is its position; 0 stands for any other member."""
    numbers = {member: number for number, member in enumerate(members)}

    def pack(member: Any) -> int:
        return numbers.get(member, 0)

    def unpack(number: int) -> Any:
        return members[number] if number < len(members) else members[0]

    return _Field("I", pack, unpack)


def _set(word: Callable[[int], Any], count: int) -> _Field:
    """Returns a set of enum members: bit N stands for the member whose number is N, from 1 on."""
    numbers = {word(number): number for number in range(1, count)}

    def pack(chosen: frozenset[Any]) -> int:
        return sum(1 << number for member, number in numbers.items() if member in chosen)

    def unpack(bits: int) -> frozenset[Any]:
        return frozenset(member for member, number in numbers.items() if bits >> number & 1)

    return _Field("I", pack, unpack)


_NUMBER = _Field("I", operator.index, int)
_BOOL = _Field("I", int, bool)
_NAME = _text(MAX_APP_NAME_BYTES)
_LOG = _text(MAX_APP_LOG_BYTES)
_ACTION = _word(
    CorrectiveAction.UNKNOWN,
    CorrectiveAction.NONE,
    CorrectiveAction.REBOOT,
    CorrectiveAction.STOP,
    CorrectiveAction.LOG,
)
_EVENT = _word(
    Event.UNKNOWN,
    Event.STOP,
    Event.REBOOT,
    Event.SUSPEND,
    Event.PAUSE,
    Event.UNPAUSE,
    Event.RESUME,
    Event.RESIZE_BEGIN,
    Event.RESIZE_END,
    Event.LIVE_MIGRATE_BEGIN,
    Event.LIVE_MIGRATE_END,
    Event.COLD_MIGRATE_BEGIN,
    Event.COLD_MIGRATE_END,
)
_EVENTS = _set(_EVENT.unpack, len(Event))
_NOTIFICATION = _word(
    NotificationType.UNKNOWN, NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
)
#: TIMEOUT and ERROR exist on the channel only: a late application sends no response.
_RESULT = _word(VoteResult.UNKNOWN, VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE)


class _Layout:
    """Packs and unpacks the body of one message type."""

    def __init__(self, cls: type[AppMessage], *members: _Field) -> None:
        self._cls = cls
        self._names = cls.__struct_fields__
        self._members = members
        self._struct = struct.Struct("@" + "".join(member.code for member in members))

    def pack(self, message: AppMessage) -> bytes:
        values = (getattr(message, name) for name in self._names)
        return self._struct.pack(
            *(member.pack(value) for member, value in zip(self._members, values, strict=True))
        )

    def unpack(self, data: bytes, offset: int) -> AppMessage:
        raw = self._struct.unpack_from(data, offset)
        return self._cls(
            *(member.unpack(value) for member, value in zip(self._members, raw, strict=True))
        )


_LAYOUTS: Final[dict[int, _Layout]] = {
    AppInit.TYPE: _Layout(AppInit, _NAME, *[_NUMBER] * 5, _ACTION),
    AppInitAck.TYPE: _Layout(AppInitAck, _BOOL),
    FinalMessage.TYPE: _Layout(FinalMessage, _LOG),
    AppChallenge.TYPE: _Layout(AppChallenge, _NUMBER),
    AppChallengeResponse.TYPE: _Layout(AppChallengeResponse, _NUMBER, _BOOL, _ACTION, _LOG),
    AppActionNotify.TYPE: _Layout(AppActionNotify, _NUMBER, _EVENT, _NOTIFICATION, _NUMBER),
    AppActionResponse.TYPE: _Layout(
        AppActionResponse, _NUMBER, _EVENT, _NOTIFICATION, _RESULT, _LOG
    ),
    AppInhibit.TYPE: _Layout(AppInhibit, _EVENTS, _LOG),
    AppMoreTime.TYPE: _Layout(AppMoreTime, *[_NUMBER] * 3),
    AppTimeGranted.TYPE: _Layout(AppTimeGranted, *[_NUMBER] * 3, _LOG),
    AppReady.TYPE: _Layout(AppReady, _EVENT),
}


def encode(message: AppMessage, sequence: int) -> bytes:
    """Encodes one message as 228 bytes.

    Args:
        message: the message. ``name`` and ``log_msg`` are clipped to 39 and 191 bytes of UTF-8
            at a character boundary. Enum members without a number are sent as unknown.
        sequence: the sender's counter; it starts at 1 and wraps at 32 bits. No peer reads it.

    Raises:
        struct.error: a number is not in 0..2^32-1.
        TypeError: a number is not an integer.
    """
    header = _HEADER.pack(
        MAGIC, VERSION, REVISION, message.TYPE, sequence & 0xFFFFFFFF, MESSAGE_BYTES
    )
    return (header + _LAYOUTS[message.TYPE].pack(message)).ljust(MESSAGE_BYTES, b"\0")


class AppDecoder:
    """Decodes the byte stream of one connection, in bounded memory and with any chunking.

    The decoder searches for the magic only between messages, so a magic within a name or a reason
    starts no message. A header with an unknown version or type is skipped together with its body
    if its ``size`` is that of a message. Otherwise only the magic is skipped, because such a header
    is garbage and a message may follow directly.

    The counters of skipped data don't depend on the chunking either.
    """

    __slots__ = ("_held", "garbage_bytes", "other_types", "other_versions")

    def __init__(self) -> None:
        self._held = b""
        #: Bytes skipped because they belong to no message.
        self.garbage_bytes = 0
        #: Headers skipped because their version is not 2.
        self.other_versions = 0
        #: Headers skipped because their type is unknown.
        self.other_types = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of an incomplete message; less than 228."""
        return len(self._held)

    def feed(self, data: bytes) -> list[AppMessage]:
        """Takes the next bytes and returns the messages they complete."""
        data = self._held + data
        messages: list[AppMessage] = []
        at = 0
        while True:
            start = self._next_magic(data, at)
            self.garbage_bytes += start - at
            at = start
            if len(data) - at < _HEADER.size:
                break
            _, version, _, msg_type, _, size = _HEADER.unpack_from(data, at)
            layout = _LAYOUTS.get(msg_type) if version == VERSION else None
            whole = layout is not None or size == MESSAGE_BYTES
            if whole and len(data) - at < MESSAGE_BYTES:
                break
            if layout is not None:
                messages.append(layout.unpack(data, at + _HEADER.size))
            elif version != VERSION:
                self.other_versions += 1
            else:
                self.other_types += 1
            at += MESSAGE_BYTES if whole else len(MAGIC)
        self._held = data[at:]
        return messages

    @staticmethod
    def _next_magic(data: bytes, at: int) -> int:
        """Returns the offset of the next magic, or of a suffix that may become one."""
        found = data.find(MAGIC, at)
        if found >= 0:
            return found
        for start in range(max(at, len(data) - len(MAGIC) + 1), len(data)):
            if MAGIC.startswith(data[start:]):
                return start
        return len(data)
