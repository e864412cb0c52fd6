"""Where ``hbtrio ctl`` writes: a terminal whose last line can be redrawn, or plain lines.

All text passes through :func:`printable`, because reasons and names are tenants' texts: escape
sequences, C1 controls and bidi overrides are shown, not executed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any, Final, TextIO

from rich.cells import cell_len, set_cell_size

from hbtrio.output import writing_out
from hbtrio.text import printable

#: ANSI codes by colour.
COLOURS: Final = {"": "", "good": "32", "warn": "33", "bad": "1;31", "faint": "2"}

#: Clears the rest of the line.
CLEAR: Final = "\x1b[K"


class Screen:
    """A place to write to.

    Args:
        out: the stream; characters that its encoding lacks are written as escapes.
        terminal: whether a line can be redrawn in place.
        colour: whether colours are wanted.
        columns: returns the current width in cells.
    """

    def __init__(
        self, out: TextIO, *, terminal: bool, colour: bool, columns: Callable[[], int]
    ) -> None:
        self.terminal = terminal
        self._out = out
        self._colour = colour
        self._columns = columns
        self._redrawn = False
        self._held: list[str] | None = None

    @classmethod
    def of(cls, out: TextIO) -> Screen:
        """A screen on one of the process's streams.

        A dumb terminal counts as a pipe; NO_COLOR disables colours (no-color.org).
        """
        terminal = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        colour = terminal and not os.environ.get("NO_COLOR")
        return cls(
            out,
            terminal=terminal,
            colour=colour,
            columns=lambda: shutil.get_terminal_size().columns,
        )

    @property
    def columns(self) -> int | None:
        """The width in cells; None if it is not a terminal."""
        return max(20, self._columns()) if self.terminal else None

    @property
    def rows(self) -> int:
        """The height in lines."""
        return shutil.get_terminal_size().lines

    def line(self, *pieces: tuple[str, str] | str) -> None:
        """Writes a line, replacing one that was drawn with :meth:`redraw`.

        Args:
            pieces: texts, or texts with one of ``COLOURS``.
        """
        self.painted_line(
            "".join(
                self.painted(*piece) if isinstance(piece, tuple) else printable(piece)
                for piece in pieces
            )
        )

    def painted_line(self, text: str) -> None:
        """Writes a line as :meth:`line` does, of texts from :meth:`painted`."""
        self._write((f"\r{CLEAR}" if self._redrawn else "") + text + "\n")
        self._redrawn = False

    def painted(self, text: str, colour: str) -> str:
        """A printable text in one of ``COLOURS``, if colours are wanted."""
        code = COLOURS[colour] if self._colour else ""
        return f"\x1b[{code}m{printable(text)}\x1b[0m" if code else printable(text)

    def hold(self) -> None:
        """From now on keeps what is written, for :meth:`release`."""
        self._held = []

    def release(self) -> str:
        """Writes directly again; returns what was kept, as it would have been written."""
        held = "".join(self._held or ())
        self._held = None
        return self._encodable(held)

    def write(self, text: str) -> None:
        """Writes a text from :meth:`release`."""
        with writing_out():
            self._out.write(text)
            self._out.flush()

    def json(self, value: Any, *, indent: int | None = None) -> None:
        """Writes a JSON text of ASCII characters only."""
        text = json.dumps(value, ensure_ascii=True, indent=indent)
        # The only control character that JSON does not escape; it can only be in a string.
        self._write(text.replace("\x7f", "\\u007f") + "\n")

    def redraw(self, text: str) -> None:
        """Draws the line at the cursor in place; for terminals only."""
        # A line as wide as the terminal would wrap and could not be redrawn.
        self._write(f"\r{clipped(printable(text), max(20, self._columns()) - 1)}{CLEAR}")
        self._redrawn = True

    def settle(self) -> None:
        """Keeps a redrawn line; the next output begins below it."""
        if self._redrawn:
            self._write("\n")
            self._redrawn = False

    def _write(self, text: str) -> None:
        if self._held is None:
            self.write(self._encodable(text))
        else:
            self._held.append(text)

    def _encodable(self, text: str) -> str:
        encoding = self._out.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


def width_of(text: str) -> int:
    """The width of a text in cells."""
    return len(text) if text.isascii() and text.isprintable() else cell_len(text)


def clipped(text: str, cells: int) -> str:
    """``text`` cut to a width, with an ellipsis where something is missing."""
    if width_of(text) <= cells:
        return text
    return set_cell_size(text, max(0, cells - 1)).rstrip() + "…"


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """``text`` clipped or filled to a width exactly."""
    text = clipped(text, cells)
    blanks = " " * (cells - width_of(text))
    return blanks + text if right else text + blanks
