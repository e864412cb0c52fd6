"""Runs the board: news, keys and signals change it, and a task draws it when it has changed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Final

import attrs
import trio

from hbtrio.cli.ctl.board.keys import Keys
from hbtrio.cli.ctl.board.model import Board
from hbtrio.cli.ctl.board.terminal import Terminal, full_screen
from hbtrio.cli.ctl.board.view import picture
from hbtrio.cli.ctl.feed import RECENT, Feed
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError

#: Pictures are at least this far apart, in seconds.
_BETWEEN_S: Final = 0.05

#: How often windows that count down are drawn, in seconds.
_TICK_S: Final = 1.0

#: How long an escape sequence may take to arrive, in seconds.
_SEQUENCE_S: Final = 0.1

_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)


class BoardApp:
    """The board on a terminal.

    Args:
        client: of the host or agent.
        terminal: where it is shown.
        group: only its members are shown; "" for all instances.
    """

    def __init__(self, client: CtlClient, terminal: Terminal, group: str = "") -> None:
        self._client = client
        self._feed = Feed(client, recent=RECENT)
        self._terminal = terminal
        self._board = Board(client.address.text, group)
        self._page = 1
        self._changed = trio.Event()
        #: Set when another instance is shown in detail, or the daemon has reported of it.
        self._detailed = trio.Event()
        self._status: int = ExitStatus.DONE

    async def run(self) -> int:
        """Shows it until its user leaves it or a signal ends it; returns the exit status.

        Raises:
            UserError: the daemon can't be reached at the very first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed.run)
            nursery.start_soon(self._learn)
            nursery.start_soon(self._look)
            nursery.start_soon(self._draw)
            nursery.start_soon(self._obey, nursery.cancel_scope)
            await self._type()
            nursery.cancel_scope.cancel()
        return self._status

    def _change(self, board: Board) -> None:
        old = self._board
        if board is not old:
            self._board = board
            self._changed.set()
            if board.detailed is not old.detailed:
                self._detailed.set()

    async def _learn(self) -> None:
        async for news in self._feed.news:
            self._change(self._board.learned(news))

    async def _look(self) -> None:
        """Asks for the instance that is shown in detail: a status does not have its voters."""
        while True:
            self._detailed = trio.Event()
            if (row := self._board.detailed) is not None:
                # It has gone, or the daemon is away: the feed says so.
                with suppress(UserError):
                    known = await self._client.instance(row.uuid)
                    self._change(attrs.evolve(self._board, known=known))
            await self._detailed.wait()

    async def _type(self) -> None:
        """Takes keys until one of them leaves the board, or the terminal is gone."""
        keys = Keys()
        while not self._board.quit:
            data: bytes | None = None
            with trio.move_on_after(_SEQUENCE_S if keys.is_waiting else float("inf")):
                data = await self._terminal.read()
            if data == b"":
                return
            for key in keys.flush() if data is None else keys.feed(data):
                if key == "redraw":
                    self._terminal.forget()
                    self._changed.set()
                self._change(self._board.pressed(key, self._page))

    async def _draw(self) -> None:
        while True:
            counting = bool(self._board.windows)
            with trio.move_on_after(_TICK_S if counting else float("inf")):
                await self._changed.wait()
            self._changed = trio.Event()
            columns, rows = self._terminal.size
            lines, self._page = picture(self._board, columns, rows, trio.current_time())
            self._board = self._board.scrolled(self._page)
            await self._terminal.draw(lines)
            await trio.sleep(_BETWEEN_S)

    async def _obey(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(*_ENDS, signal.SIGWINCH, signal.SIGTSTP) as signals:
            async for number in signals:
                if number in _ENDS:
                    # As shells report a process that a signal has ended.
                    self._status = 128 + number
                    scope.cancel()
                    return
                if number == signal.SIGTSTP:
                    self._terminal.stop()
                self._terminal.forget()
                self._changed.set()


async def watch_board(client: CtlClient, group: str) -> int:
    """Shows the board on the terminal of standard output; returns the exit status.

    Args:
        client: of the host or agent.
        group: only its members are shown; "" for all instances.

    Raises:
        UserError: that is no terminal, or the daemon can't be reached at the very first.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        text = "watch needs a terminal; `status --watch` and `watch --json` do not"
        raise UserError(text, ExitStatus.USAGE)
    path, encoding = os.ttyname(sys.stdout.fileno()), sys.stdout.encoding.lower()
    colour = not os.environ.get("NO_COLOR")
    with full_screen(path, colour=colour, encoding=encoding) as terminal:
        return await BoardApp(client, terminal, group).run()
