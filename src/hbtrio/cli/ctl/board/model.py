"""What the board knows and what its user has chosen, as one value."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.cli.ctl.board.rows import ORDERS, Row, Window, in_order, row_of
from hbtrio.cli.ctl.drain_notes import drain_notes
from hbtrio.cli.ctl.feed import Away, Happened, News, Seen, SeenOne
from hbtrio.cli.ctl.fleet import fleet_lines
from hbtrio.cli.ctl.groups import group_notes
from hbtrio.cli.ctl.ranking import members_of
from hbtrio.cli.ctl.views import host_lines
from hbtrio.client.client import AnyDetail
from hbtrio.text import printable
from hbtrio.wire.operator import AnyEventLine, FleetStatus

#: Events that are kept, the newest last.
EVENTS: Final = 500

#: The longest text to filter by.
FILTER: Final = 64

#: By how many rows a key moves the choice; a page is as high as the table.
_ALL: Final = 10**9
_STEPS: Final = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "home": -_ALL,
    "g": -_ALL,
    "end": _ALL,
    "G": _ALL,
}
_PAGES: Final = {"page-up": -1, "b": -1, "page-down": 1, " ": 1}


@attrs.frozen
class Board:
    """The whole state of the view.

    Args:
        source: the daemon's address.
        head: lines about the daemon, with their colours.
        group: only its members are shown; "" for all instances.
        fleet: whether it is an agent's.
        rows: all instances by uuid.
        members: who is in the group; None without one.
        shown: those that pass the filter, in order.
        actions: actions in progress, by uuid.
        events: the last events, the newest last.
        away: why the daemon gives no answer; "" while it does.
        order: one of ``ORDERS``.
        unhealthy: whether only those are shown that need somebody.
        filter: only what contains this text is shown.
        typing: whether keys go into the filter.
        chosen: the uuid of the chosen instance; "" for none.
        top: the first row that is on the screen.
        pane: ``table``, ``detail`` or ``help``.
        known: what the daemon has told of an instance that was shown in detail; None: nothing yet.
        quit: whether its user has left it.
    """

    source: str
    group: str = ""
    head: tuple[tuple[str, str], ...] = ()
    fleet: bool = False
    rows: dict[str, Row] = attrs.field(factory=dict)
    members: frozenset[str] | None = None
    shown: tuple[Row, ...] = ()
    actions: dict[str, str] = attrs.field(factory=dict)
    events: tuple[AnyEventLine, ...] = ()
    away: str = ""
    order: str = "worst"
    unhealthy: bool = False
    filter: str = ""
    typing: bool = False
    chosen: str = ""
    top: int = 0
    pane: str = "table"
    known: AnyDetail | None = None
    quit: bool = False

    @property
    def place(self) -> int | None:
        """Where the chosen instance is among those that are shown."""
        found = (place for place, row in enumerate(self.shown) if row.uuid == self.chosen)
        return next(found, None)

    @property
    def windows(self) -> list[tuple[Row, Window]]:
        """All open windows, those that close first at the beginning."""
        found = [(row, window) for row in self.rows.values() for window in row.windows]
        return sorted(found, key=lambda one: one[1].deadline)

    @property
    def detailed(self) -> Row | None:
        """The row of the instance that is shown in detail; another object with each report."""
        return self.rows.get(self.chosen) if self.pane == "detail" else None

    def learned(self, news: News) -> Board:
        """The board once it knows something more."""
        match news:
            case Seen(status, at):
                fleet = isinstance(status, FleetStatus)
                if isinstance(status, FleetStatus):
                    head, actions = fleet_lines(status), status.agent.actions
                else:
                    head = host_lines(status.host, status.instances)
                    actions = status.host.actions
                members = members_of(self.group, status) if self.group else None
                rows = {one.uuid: row_of(one, actions, at) for one in status.instances}
                return attrs.evolve(
                    self,
                    head=tuple(
                        (printable(text), colour)
                        for text, colour in (
                            *head,
                            *drain_notes(status.drains),
                            *group_notes(status.groups),
                        )
                    ),
                    fleet=fleet,
                    rows=rows,
                    members=members,
                    actions=actions,
                    away="",
                ).arranged()
            case SeenOne(instance, at):
                row = row_of(instance, self.actions, at)
                return attrs.evolve(self, rows={**self.rows, row.uuid: row}).arranged()
            case Happened(event):
                return attrs.evolve(self, events=(*self.events, event)[-EVENTS:])
            case Away(reason):
                return attrs.evolve(self, away=printable(reason))

    def arranged(self) -> Board:
        """The board with its rows filtered and in order."""
        text = self.filter.casefold()
        shown = [
            row
            for row in self.rows.values()
            if (row.needs_somebody or not self.unhealthy)
            and (not text or row.matches(text))
            and (self.members is None or row.uuid in self.members)
        ]
        return attrs.evolve(self, shown=tuple(in_order(shown, self.order)))

    def pressed(self, key: str, page: int) -> Board:
        """The board after a key.

        Args:
            key: as :class:`~hbtrio.cli.ctl.board.keys.Keys` names it.
            page: how many rows the table has on the screen.
        """
        if self.typing:
            return self._typed(key)
        if self.pane == "help":
            return attrs.evolve(self, pane="table")
        steps = _STEPS | {one: by * max(1, page) for one, by in _PAGES.items()}
        if key in steps:
            return self._moved(steps[key])
        match key:
            case "q" if self.pane == "table":
                return attrs.evolve(self, quit=True)
            case "q" | "escape" | "backspace" if self.pane == "detail":
                return attrs.evolve(self, pane="table")
            case "escape" if self.filter:
                return attrs.evolve(self, filter="").arranged()
            case "escape":
                return attrs.evolve(self, chosen="", top=0)
            case "enter" if self.place is not None:
                return attrs.evolve(self, pane="table" if self.pane == "detail" else "detail")
            case "enter" if self.shown and self.pane == "table":
                return attrs.evolve(self, chosen=self.shown[0].uuid, pane="detail")
            case "/":
                return attrs.evolve(self, typing=True, pane="table")
            case "s" | "S":
                orders = list(ORDERS)
                step = 1 if key == "s" else -1
                order = orders[(orders.index(self.order) + step) % len(orders)]
                return attrs.evolve(self, order=order).arranged()
            case "u":
                return attrs.evolve(self, unhealthy=not self.unhealthy).arranged()
            case "?" | "h":
                return attrs.evolve(self, pane="help")
            case _:
                return self

    def _typed(self, key: str) -> Board:
        match key:
            case "enter":
                return attrs.evolve(self, typing=False)
            case "escape":
                return attrs.evolve(self, typing=False, filter="").arranged()
            case "erase":
                return attrs.evolve(self, filter="").arranged()
            case "backspace":
                return attrs.evolve(self, filter=self.filter[:-1]).arranged()
            case _ if len(key) == 1 and len(self.filter) < FILTER:
                return attrs.evolve(self, filter=self.filter + key).arranged()
            case _:
                return self

    def _moved(self, by: int) -> Board:
        if not self.shown:
            return self
        # With nothing chosen, down chooses the first one, and so does up.
        nowhere = -1 if by > 0 else 1
        target = (nowhere if (place := self.place) is None else place) + by
        return attrs.evolve(self, chosen=self.shown[min(max(target, 0), len(self.shown) - 1)].uuid)

    def scrolled(self, height: int) -> Board:
        """The board with the chosen row on the screen, whose table is so many rows high."""
        top = min(self.top, max(0, len(self.shown) - height))
        if (place := self.place) is not None:
            top = min(max(top, place - height + 1), place)
        return attrs.evolve(self, top=max(0, top))
