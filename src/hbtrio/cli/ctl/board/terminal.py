"""The terminal while a full-screen view has it, and as it was before afterwards."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from hbtrio.cli.ctl.board.view import Line
from hbtrio.cli.ctl.screen import CLEAR, COLOURS
from hbtrio.errors import ExitStatus, UserError, os_reason

#: ANSI codes of what the view paints beside the colours. These are there without colours too.
_STYLES: Final = {"title": "1", "chosen": "7", "bar": "36"}

#: The alternate screen without a cursor, and the way back.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?25h\x1b[?1049l"

#: How long a terminal that takes nothing may delay the end, in seconds.
_PATIENCE_S: Final = 0.5

#: What a terminal without UTF-8 gets.
_PLAIN: Final = str.maketrans({"█": "#", "░": ".", "…": "~"})


class Terminal:
    """A terminal that sends each key at once and shows what is drawn.

    Args:
        fd: of the terminal, not blocking; no other process shares this open file.
        colour: whether colours are wanted.
        encoding: the terminal's.
    """

    def __init__(self, fd: int, *, colour: bool, encoding: str) -> None:
        self._fd = fd
        self._colour = colour
        self._encoding = encoding
        self._drawn: list[str] = []
        self._before = termios.tcgetattr(fd)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; at least 20 and 3, as some terminals do not tell."""
        columns, rows = os.get_terminal_size(self._fd)
        return max(20, columns or 80), max(3, rows or 24)

    def enter(self) -> None:
        """Takes the screen; Ctrl-C and Ctrl-Z stay signals."""
        tty.setcbreak(self._fd, termios.TCSANOW)
        self._write_now(_ENTER)
        self._drawn = []

    def leave(self) -> None:
        """Gives the screen back as it was. Never fails, and takes half a second at most."""
        with suppress(termios.error):  # the terminal may have gone
            # What was not shown yet must not keep the rest waiting, nor become shell input.
            termios.tcflush(self._fd, termios.TCIOFLUSH)
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        with suppress(OSError):
            self._write_now(_LEAVE)

    def stop(self) -> None:
        """Gives the screen back and stops this process, as Ctrl-Z does, until it is continued."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()

    def forget(self) -> None:
        """Draws everything the next time."""
        self._drawn = []

    async def read(self) -> bytes:
        """What was typed, once there is something; b"" at the end.

        A cancellation loses nothing.
        """
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, 4096)
            except BlockingIOError:
                continue
            except OSError:  # the terminal has gone
                return b""

    async def draw(self, lines: list[Line]) -> None:
        """Draws the lines that differ from those on the screen.

        Cancelled, it leaves part of them; the next time all are drawn.
        """
        texts = [self._text(line) for line in lines]
        drawn, self._drawn = self._drawn, []
        whole = len(drawn) != len(texts)
        changed = [
            f"\x1b[{row};1H{text}{CLEAR}"
            for row, text in enumerate(texts, 1)
            if whole or text != drawn[row - 1]
        ]
        data = "".join(changed).encode(self._encoding, "replace")
        while data:
            await trio.lowlevel.wait_writable(self._fd)
            with suppress(BlockingIOError):
                data = data[os.write(self._fd, data) :]
        self._drawn = texts

    def _text(self, line: Line) -> str:
        painted = []
        for text, style in line:
            code = _STYLES.get(style) or (COLOURS[style] if self._colour else "")
            if not self._colour and style == "bar":
                code = ""
            painted.append(f"\x1b[{code}m{text}\x1b[0m" if code and text else text)
        whole = "".join(painted)
        return whole if self._encoding == "utf-8" else whole.translate(_PLAIN)

    def _write_now(self, data: bytes) -> None:
        while data and select.select([], [self._fd], [], _PATIENCE_S)[1]:
            data = data[os.write(self._fd, data) :]


@contextmanager
def full_screen(path: str, *, colour: bool, encoding: str) -> Iterator[Terminal]:
    """Takes a terminal, and gives it back as it was, whatever ends the block.

    Args:
        path: the terminal. It is opened anew: to wait for its keys the open file must not block,
            and that of standard output is shared with the shell.
        colour: whether colours are wanted.
        encoding: the terminal's.

    Raises:
        UserError: it can't be opened, or is no terminal.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}", ExitStatus.FAILED) from error
    try:
        if not os.isatty(fd):
            raise UserError(f"{path}: is not a terminal", ExitStatus.FAILED)
        terminal = Terminal(fd, colour=colour, encoding=encoding)
        try:
            terminal.enter()
            yield terminal
        finally:
            terminal.leave()
    finally:
        os.close(fd)
