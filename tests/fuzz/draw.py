"""Numbers, texts and choices from a fuzzer's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Takes values from the front of the bytes; when they run out, all values are small or empty.

    Args:
        data: the fuzzer's bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._left = data

    def take(self, size: int) -> bytes:
        """At most so many bytes."""
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def number(self, low: int, high: int) -> int:
        """A number from a range: its ends and what is near them more often than the rest."""
        raw = self.take(1)
        if raw < b"\x80":
            return min(high, low + int.from_bytes(raw, "big"))
        if raw < b"\xc0":
            return max(low, high - (raw[0] - 0x80))
        return low + int.from_bytes(self.take(8), "big") % (high - low + 1)

    def one_of(self, choices: Sequence[T]) -> T:
        """One of some values."""
        return choices[int.from_bytes(self.take(1), "big") % len(choices)]

    def text(self) -> str:
        """Any text, even one that UTF-8 can't encode."""
        raw = self.take(int.from_bytes(self.take(1), "big"))
        return raw.decode("utf-8", "surrogatepass" if self._is_whole(raw) else "replace")

    @staticmethod
    def _is_whole(raw: bytes) -> bool:
        try:
            raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return False
        return True

    def pieces(self) -> list[bytes]:
        """All that is left, cut as its first bytes say."""
        sizes = self.take(self.number(0, 16))
        return [*(self.take(size) for size in sizes), self.take(len(self._left))]


def text_of(data: bytes) -> str:
    """The bytes as Python gives them to a program, where they are a file name or an argument."""
    return data.decode("utf-8", "surrogateescape")
