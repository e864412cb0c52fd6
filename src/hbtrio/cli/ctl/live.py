"""Shows a status again whenever it changes: ``hbtrio ctl status --watch``.

On a terminal each picture replaces the one before, and the last one stays. Elsewhere one follows
the other; as JSON each is one line.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final, NoReturn

import trio
from msgspec.structs import replace

from hbtrio.cli.ctl.feed import Away, Feed, News, Seen, SeenOne
from hbtrio.cli.ctl.fleet import show_fleet
from hbtrio.cli.ctl.ranking import Selection
from hbtrio.cli.ctl.screen import CLEAR, Screen
from hbtrio.cli.ctl.table import write_clipped
from hbtrio.cli.ctl.views import show_status
from hbtrio.client.client import CtlClient
from hbtrio.errors import UserError
from hbtrio.wire.operator import FleetInstanceLine, FleetStatus, InstanceLine, Status, encode

#: Pictures are at least this far apart, in seconds: nobody reads faster.
BETWEEN_S: Final = 0.5


def merged(
    status: Status | FleetStatus, instance: InstanceLine | FleetInstanceLine
) -> Status | FleetStatus:
    """The status with the newer state of one instance; of another daemon's: the same status."""
    if isinstance(status, FleetStatus):
        if isinstance(instance, FleetInstanceLine):
            members = {one.uuid: one for one in status.instances} | {instance.uuid: instance}
            return replace(status, instances=tuple(members.values()))
    elif isinstance(instance, InstanceLine):
        lines = {one.uuid: one for one in status.instances} | {instance.uuid: instance}
        beating = sum(one.heartbeating for one in lines.values())
        host = replace(status.host, heartbeating=beating)
        return replace(status, host=host, instances=tuple(lines.values()))
    return status


class LiveStatus:
    """A status that is kept up to date.

    Args:
        client: of the host or agent.
        screen: where to show it.
        selection: which instances.
        every_s: how often everything is asked for, in seconds.
        as_json: whether to write JSON lines.
    """

    def __init__(
        self,
        client: CtlClient,
        screen: Screen,
        selection: Selection,
        *,
        every_s: float,
        as_json: bool,
    ) -> None:
        self._feed = Feed(client, every_s=every_s)
        self._screen = screen
        self._selection = selection
        self._as_json = as_json
        self._status: Status | FleetStatus | None = None
        self._as_of = ""
        self._away = ""
        self._begun = False
        self._drawn: list[str] = []
        self._size: tuple[int | None, int] | None = None

    async def run(self) -> NoReturn:
        """Shows it until cancelled.

        Raises:
            UserError: the daemon can't be reached at the very first, or the selection names what
                is not there.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed.run)
            while True:
                shown = self._take(await self._feed.news.receive())
                while True:
                    try:
                        shown = self._take(self._feed.news.receive_nowait()) or shown
                    except trio.WouldBlock:
                        break
                if shown:
                    self._show()
                    self._begun = True
                    await trio.sleep(BETWEEN_S)

    def _take(self, news: News) -> bool:
        """Learns of something; returns whether it is shown."""
        match news:
            case Seen(status):
                self._status, self._away = status, ""
            case SeenOne(instance) if self._status is not None:
                self._status = merged(self._status, instance)
            case Away(reason):
                before, self._away = self._away, reason
                return reason != before
            case _:
                return False
        self._as_of = f"{datetime.now():%H:%M:%S}"
        return True

    def _show(self) -> None:
        if self._as_json:
            self._show_json()
            return
        self._screen.hold()
        try:
            if self._away:
                text = f"AWAY, trying again; this is as of {self._as_of}: {self._away}"
                write_clipped(self._screen, text, "bad")
            if self._status is not None:
                self._write(self._status)
        finally:
            text = self._screen.release()
        lines = text.splitlines()
        if self._screen.terminal:
            self._redraw(lines)
        else:
            self._screen.write("\n".join([*lines, "", ""]))

    def _write(self, status: Status | FleetStatus) -> None:
        try:
            selection = self._selection.within(status)
            if isinstance(status, FleetStatus):
                show_fleet(self._screen, status, selection)
            else:
                show_status(self._screen, status, selection)
        except UserError as fault:
            # What was there at the beginning may come back.
            if not self._begun:
                raise
            write_clipped(self._screen, str(fault), "bad")

    def _show_json(self) -> None:
        if self._away:
            self._screen.json({"away": self._away})
        elif self._status is not None:
            status, selection = self._status, self._selection
            whole = json.loads(encode(status))
            try:
                selection = selection.within(status)
                whole["instances"] = selection.of_members(status, whole["instances"])
            except UserError:
                if not self._begun:
                    raise
                whole["instances"] = []
            self._screen.json(whole)

    def _redraw(self, lines: list[str]) -> None:
        rows, size = self._screen.rows, (self._screen.columns, self._screen.rows)
        # The cursor stands on the last row, below the picture.
        room = max(1, rows - 2)
        if len(lines) > room:
            left = len(lines) - room + 1
            lines = [*lines[: room - 1], f"... {left} more rows; `hbtrio ctl watch` scrolls"]
        lines.append(f"as of {self._as_of}; Ctrl-C ends")
        if self._size is None:
            start = ""
        elif self._size != size:
            start = "\x1b[H\x1b[2J"
        else:
            start = f"\r\x1b[{len(self._drawn)}A"
        self._size, self._drawn = size, lines
        self._screen.write(start + "".join(f"{line}{CLEAR}\n" for line in lines) + "\x1b[J")
