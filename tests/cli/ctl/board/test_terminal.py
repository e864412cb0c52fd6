"""The terminal on a real pty: what is drawn, and that it is left as it was, whatever happens."""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Iterator

import attrs
import pytest
import trio

from hbtrio.cli.ctl.board.terminal import full_screen
from hbtrio.errors import ExitStatus, UserError

ENTERED = b"\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
LEFT = b"\x1b[0m\x1b[?25h\x1b[?1049l"


@attrs.frozen
class Pty:
    """Both ends of a pty."""

    master: int
    slave: int

    @property
    def path(self) -> str:
        return os.ttyname(self.slave)

    @property
    def modes(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def shown(self) -> bytes:
        """What was written to the terminal since the last time."""
        data = b""
        while select.select([self.master], [], [], 0)[0]:
            data += os.read(self.master, 65536)
        return data


@pytest.fixture
def terminal() -> Iterator[Pty]:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (5, 40))
    yield Pty(master, slave)
    os.close(master)
    os.close(slave)


async def test_only_what_has_changed_is_drawn(terminal: Pty) -> None:
    with full_screen(terminal.path, colour=True, encoding="utf-8") as screen:
        assert screen.size == (40, 5)
        assert terminal.shown() == ENTERED
        await screen.draw([[("one", "bad"), (" two", "")], [("three", "chosen")]])
        assert terminal.shown().decode() == (
            "\x1b[1;1H\x1b[1;31mone\x1b[0m two\x1b[K\x1b[2;1H\x1b[7mthree\x1b[0m\x1b[K"
        )
        await screen.draw([[("one", "bad"), (" two", "")], [("four", "")]])
        assert terminal.shown() == b"\x1b[2;1Hfour\x1b[K"
        await screen.draw([[("one", "bad"), (" two", "")], [("four", "")]])
        assert terminal.shown() == b""
        screen.forget()
        await screen.draw([[("one", "")], [("four", "")]])
        assert terminal.shown() == b"\x1b[1;1Hone\x1b[K\x1b[2;1Hfour\x1b[K"
    assert terminal.shown() == LEFT


async def test_without_colours_the_choice_is_still_seen(terminal: Pty) -> None:
    with full_screen(terminal.path, colour=False, encoding="utf-8") as screen:
        terminal.shown()
        await screen.draw([[("one", "bad"), ("two", "bar"), ("three", "chosen")]])
        assert terminal.shown() == b"\x1b[1;1Honetwo\x1b[7mthree\x1b[0m\x1b[K"


async def test_a_terminal_without_utf_8(terminal: Pty) -> None:
    with full_screen(terminal.path, colour=False, encoding="ascii") as screen:
        terminal.shown()
        await screen.draw([[("\u2588\u2591\u2026\u00e9", "")]])
        assert terminal.shown() == b"\x1b[1;1H#.~?\x1b[K"


async def test_keys_come_at_once_and_unseen(terminal: Pty) -> None:
    before = terminal.modes
    with full_screen(terminal.path, colour=True, encoding="utf-8") as screen:
        terminal.shown()
        assert terminal.modes != before
        with trio.fail_after(5):
            os.write(terminal.master, b"q")
            assert await screen.read() == b"q"
        assert terminal.shown() == b""
        # Ctrl-C and Ctrl-Z stay signals.
        assert termios.tcgetattr(terminal.slave)[3] & termios.ISIG
    assert terminal.modes == before
    # The file that the shell shares was not touched.
    assert os.get_blocking(terminal.slave)


async def test_it_is_left_as_it_was_after_a_crash(terminal: Pty) -> None:
    before = terminal.modes

    def crash() -> None:
        with full_screen(terminal.path, colour=True, encoding="utf-8"):
            os.write(terminal.master, b"typed by nobody's leave\n")
            raise LookupError

    with pytest.raises(LookupError):
        crash()
    assert terminal.modes == before
    assert terminal.shown().endswith(LEFT)
    # What was typed meanwhile is not the shell's input.
    os.set_blocking(terminal.slave, False)
    with pytest.raises(BlockingIOError):
        os.read(terminal.slave, 100)


async def test_drawing_waits_for_a_slow_terminal_and_can_be_cancelled(terminal: Pty) -> None:
    with full_screen(terminal.path, colour=True, encoding="utf-8") as screen:
        lines = [[("x" * 1000, "")] for _ in range(200)]
        with trio.move_on_after(0.2) as scope:
            await screen.draw(lines)
        assert scope.cancelled_caught
        terminal.shown()
        # Part of it was drawn: the next time all is.
        await screen.draw([[("all", "")]])
        assert b"\x1b[1;1Hall\x1b[K" in terminal.shown()


async def test_a_terminal_that_takes_nothing_does_not_keep_it(terminal: Pty) -> None:
    began = trio.current_time()
    with full_screen(terminal.path, colour=True, encoding="utf-8") as screen:
        termios.tcflow(terminal.slave, termios.TCOOFF)
        with trio.move_on_after(0.1):
            await screen.draw([[("x" * 100_000, "")]])
    assert trio.current_time() - began < 5
    termios.tcflow(terminal.slave, termios.TCOON)


async def test_a_terminal_that_has_gone_has_no_more_keys() -> None:
    master, slave = os.openpty()
    with full_screen(os.ttyname(slave), colour=True, encoding="utf-8") as screen:
        os.close(master)
        with trio.fail_after(5):
            assert await screen.read() == b""
    os.close(slave)


@pytest.mark.parametrize("path", ["/dev/null", "/no/such/terminal"])
def test_what_is_no_terminal(path: str) -> None:
    with (
        pytest.raises(UserError) as caught,
        full_screen(path, colour=True, encoding="utf-8"),
    ):
        raise AssertionError
    assert caught.value.status is ExitStatus.FAILED
    assert str(caught.value).startswith(f"{path}: ")
