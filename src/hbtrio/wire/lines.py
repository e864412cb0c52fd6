"""Splits a byte stream into lines, in bounded memory and with any chunking.

The channel frames a message as ``\\n{...}\\n``. A transport may split a message, join several, or
start in the middle of one (a reconnect, a migration, a rebooted guest), so the reader makes no
assumption about where a stream starts: only a newline resynchronises it.
"""

from __future__ import annotations

#: More than any legal message (1056 bytes) and well above what a deployed guest can produce.
MAX_LINE_BYTES = 4096


class LineReader:
    """Splits a byte stream into lines without their newline; empty lines are dropped.

    A line longer than ``max_bytes`` is skipped up to its newline and counted in ``skipped``, so
    a peer that never sends a newline costs at most ``max_bytes`` of memory.

    Args:
        max_bytes: the longest line that is returned, without its newline.
    """

    __slots__ = ("_held", "_max_bytes", "_skipping", "skipped")

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = b""
        self._skipping = False
        #: Lines skipped because they were too long.
        self.skipped = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of an incomplete line; at most ``max_bytes``."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes and returns the lines they complete."""
        if not self._held and not self._skipping and len(data) <= self._max_bytes:
            # Nearly every read holds exactly one whole message: `\n{...}\n`.
            line = data.strip(b"\n")
            if data.endswith(b"\n") and b"\n" not in line:
                return [line] if line else []
        parts = data.split(b"\n")
        tail = parts.pop()
        lines: list[bytes] = []
        for part in parts:
            line, self._held = self._held + part, b""
            if self._skipping:
                self._skipping = False
            elif len(line) > self._max_bytes:
                self.skipped += 1
            elif line:
                lines.append(line)
        if not self._skipping:
            self._held += tail
            if len(self._held) > self._max_bytes:
                self._held, self._skipping = b"", True
                self.skipped += 1
        return lines

    def reset(self) -> None:
        """Drops an incomplete line: its rest can't come from a new connection."""
        self._held, self._skipping = b"", False
