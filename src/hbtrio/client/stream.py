"""Answers of an operator API, read line by line or whole, and errors while reading them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import httpx
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.tls import connection_reason
from hbtrio.wire.operator import ReplyFault, parse

T = TypeVar("T")

#: A line may carry a command of 64 KiB whose every second argument is the instance's uuid.
LINE_BYTES: Final = 1024 * 1024

#: A stream of events is silent for 15 s at most; this is three times that.
SILENCE_S: Final = 45.0


@attrs.frozen
class StreamLost:
    """Makes the error for an answer that ends early.

    Args:
        where: the daemon's address.
        unknown: what remains unknown because of it, or "".
    """

    where: str
    unknown: str

    def __call__(self, what: str) -> UserError:
        """The error: UNREACHABLE, and what went wrong."""
        text = f"{self.where}: {what}" + (f"; {self.unknown}" if self.unknown else "")
        return UserError(text, ExitStatus.UNREACHABLE)


class Lines:
    """An answer of JSON lines, read one by one.

    Args:
        chunks: the answer's bytes.
        lost: makes the error for an answer that fails in the middle.
    """

    def __init__(self, chunks: AsyncIterator[bytes], lost: StreamLost) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self.lost = lost

    async def next(self, cls: type[T], within_s: float) -> T | None:
        """The next line as a ``cls``, see :func:`parse`; else as :meth:`read`."""
        return await self.read(partial(parse, cls=cls), within_s)

    async def read(self, reader: Callable[[bytes], T], within_s: float) -> T | None:
        """The next line, empty ones left out; None at the end.

        Args:
            reader: makes it of its bytes, or raises :class:`ReplyFault`.
            within_s: the timeout in seconds; an empty line, which keeps a stream alive, restarts
                it.

        Raises:
            UserError: UNREACHABLE, the daemon went away, was silent for too long, or sent an
                invalid line.

        After a cancellation nothing more can be read.
        """
        while (line := await self._line(within_s)) is not None:
            if line:
                try:
                    return reader(line)
                except ReplyFault as fault:
                    raise self.lost(f"the daemon sent an invalid line: {fault}") from fault
        return None

    async def _line(self, within_s: float) -> bytes | None:
        with trio.move_on_after(within_s):
            while (end := self._held.find(b"\n")) < 0:
                if len(self._held) > LINE_BYTES:
                    raise self.lost(f"the daemon sent a line of over {LINE_BYTES} bytes")
                try:
                    self._held += await anext(self._chunks)
                except StopAsyncIteration:
                    if self._held:
                        raise self.lost("the daemon stopped in the middle of a line") from None
                    return None
                except httpx.HTTPError as error:
                    raise self.lost(words(error)) from error
            line = bytes(self._held[:end])
            del self._held[: end + 1]
            return line
        raise self.lost(f"nothing from the daemon for {within_s:g} s")


async def read_whole(chunks: AsyncIterator[bytes], limit: int, lost: StreamLost) -> bytes:
    """A whole answer; of one above ``limit`` bytes, slightly more than ``limit`` bytes.

    Raises:
        UserError: UNREACHABLE, it failed in the middle.

    After a cancellation nothing more can be read.
    """
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                break
    except httpx.HTTPError as error:
        raise lost(words(error)) from error
    return bytes(body)


def words(error: httpx.HTTPError) -> str:
    """The text of an error for users.

    httpx's own text is not meant for users, and may hold the server's bytes.
    """
    cause = os_error(error)
    return "the daemon went away" + ("" if cause is None else f": {connection_reason(cause)}")


def os_error(error: BaseException) -> OSError | None:
    """The operating system's error that caused a chain of others."""
    found: OSError | None = None
    cause: BaseException | None = error
    for _ in range(16):
        if isinstance(cause, OSError):
            found = cause
            if cause.errno is not None:  # else it sums up those of several addresses
                break
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause is not None:
            cause = cause.__cause__ or cause.__context__
    return found
