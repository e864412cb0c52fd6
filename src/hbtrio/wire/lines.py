"""Lines out of a byte stream, whatever the chunking, in bounded memory.

The channel frames a message as ``\\n{...}\\n``, and a transport may cut it anywhere, glue several
together, or start in the middle of one (a reconnect, a migration, a rebooted guest). So nothing is
assumed about where a stream begins: a newline is the only thing that resynchronises.
"""

from __future__ import annotations

#: More than any legal message (1056 bytes); what a deployed guest may produce stays well below it.
MAX_LINE_BYTES = 4096


class LineReader:
    """Splits a byte stream into lines without their newline; empty lines are left out.

    A line longer than ``max_bytes`` is skipped up to its newline and counted in ``skipped``, so
    that a peer which never sends a newline costs at most ``max_bytes`` of memory.

    Args:
        max_bytes: the longest line that is returned, without its newline.
    """

    __slots__ = ("_held", "_max_bytes", "_skipping", "skipped")

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = b""
        self._skipping = False
        #: How many lines were too long.
        self.skipped = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a line begun and not ended; at most ``max_bytes``."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes and returns the lines that they complete."""
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
        """Forgets a line begun: the bytes that would have ended it come from another connection."""
        self._held, self._skipping = b"", False
