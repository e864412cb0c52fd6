"""Bytes to messages and back for the application API: C structs of one size on a stream.

Every message is a header of 20 bytes and a body of 208, whatever its type; what the body does not
use is zero. Numbers have the byte order and alignment of the machine, for both ends are C programs
on it, or pretend to be.

Three things of deployed peers are not to be guessed from the structs. The health is a C ``bool``:
1 is healthy, 0 is not, and a deployed guest takes any other number for healthy too. The ``size`` in
the header is written and never read. A reader that meets another version goes on behind the magic,
so that one magic in garbage costs it no message.

Whatever the bytes, decoding raises nothing.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Any, Final

import attrs

from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInit,
    AppInitAck,
    AppMessage,
)
from hbtrio.wire.app_messages import Final as FinalMessage
from hbtrio.wire.channel_codec import clip_utf8
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

MAGIC: Final = b"FDFDA5A5"
VERSION: Final = 2
REVISION: Final = 1

MESSAGE_BYTES: Final = 228

#: The C buffers, without the NUL that deployed readers copy up to.
MAX_APP_NAME_BYTES: Final = 39
MAX_APP_LOG_BYTES: Final = 191

#: Magic, version, revision, type, sequence, size.
_HEADER: Final = struct.Struct("@8sBBHII")


@attrs.frozen
class _Field:
    """One member of a C struct: its code for :mod:`struct`, and the way there and back."""

    code: str
    pack: Callable[[Any], int | bytes]
    unpack: Callable[[Any], Any]


def _text(max_bytes: int) -> _Field:
    def pack(text: str) -> bytes:
        # A NUL would end the text for every reader, and what stands behind it may matter.
        clipped = clip_utf8(text.replace("\0", " "), max_bytes)
        return clipped.encode("utf-8", "replace")

    def unpack(data: bytes) -> str:
        return data.partition(b"\0")[0].decode("utf-8", "replace")

    return _Field(f"{max_bytes + 1}s", pack, unpack)


def _word(*members: Any) -> _Field:
    """An enum; a member's number is its place, and 0 stands for all that have none."""
    numbers = {member: number for number, member in enumerate(members)}

    def pack(member: Any) -> int:
        return numbers.get(member, 0)

    def unpack(number: int) -> Any:
        return members[number] if number < len(members) else members[0]

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
_NOTIFICATION = _word(
    NotificationType.UNKNOWN, NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
)
#: Timeout and error are words of the channel only; here whoever is late is silent.
_RESULT = _word(VoteResult.UNKNOWN, VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE)


class _Layout:
    """The body of one type of message."""

    def __init__(self, cls: type[AppMessage], *members: _Field) -> None:
        self._cls = cls
        self._names = [field.name for field in attrs.fields(cls)]
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
    AppActionNotify.TYPE: _Layout(AppActionNotify, _NUMBER, _EVENT, _NOTIFICATION),
    AppActionResponse.TYPE: _Layout(
        AppActionResponse, _NUMBER, _EVENT, _NOTIFICATION, _RESULT, _LOG
    ),
}


def encode(message: AppMessage, sequence: int) -> bytes:
    """One message as its 228 bytes.

    Args:
        message: what to send. ``name`` and ``log_msg`` are clipped to 39 and 191 bytes of UTF-8,
            between characters; words that have no number here are sent as unknown.
        sequence: the sender's counter; it starts at 1 and wraps at 32 bits. Nobody reads it.

    Raises:
        struct.error: a number is not in 0..2^32-1.
        TypeError: a number is no whole number.
    """
    header = _HEADER.pack(
        MAGIC, VERSION, REVISION, message.TYPE, sequence & 0xFFFFFFFF, MESSAGE_BYTES
    )
    return (header + _LAYOUTS[message.TYPE].pack(message)).ljust(MESSAGE_BYTES, b"\0")


class AppDecoder:
    """Messages out of one connection's bytes, whatever the chunking, in bounded memory.

    Between messages it looks for the magic; within one it takes the bytes as they are, so a magic
    in a name or a reason begins nothing. A header that can't be used is skipped with its body where
    its size is that of a message, and else up to behind its magic: then it is no header but
    garbage, and a message may follow at once.

    The counters say what was skipped, and don't depend on the chunking either.
    """

    __slots__ = ("_held", "garbage_bytes", "other_types", "other_versions")

    def __init__(self) -> None:
        self._held = b""
        #: Bytes that were skipped because they belong to no message.
        self.garbage_bytes = 0
        #: How many headers of another version than 2 were skipped.
        self.other_versions = 0
        #: How many headers of an unknown type were skipped.
        self.other_types = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a message begun and not ended; less than 228."""
        return len(self._held)

    def feed(self, data: bytes) -> list[AppMessage]:
        """Takes the next bytes and returns the messages that they complete."""
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
        """Where the next magic begins, or may begin with what is still to come."""
        found = data.find(MAGIC, at)
        if found >= 0:
            return found
        for start in range(max(at, len(data) - len(MAGIC) + 1), len(data)):
            if MAGIC.startswith(data[start:]):
                return start
        return len(data)
