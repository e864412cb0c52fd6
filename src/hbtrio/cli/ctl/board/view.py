"""The board as lines of a terminal of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from hbtrio.cli.ctl.board.detail import FactLine, detail_lines, voter_lines
from hbtrio.cli.ctl.board.model import Board
from hbtrio.cli.ctl.board.rows import Row, Window
from hbtrio.cli.ctl.screen import clipped, padded, width_of
from hbtrio.cli.ctl.table import HEALTH_COLOURS, STATE_COLOURS
from hbtrio.cli.ctl.times import clock
from hbtrio.cli.ctl.views import what_happened
from hbtrio.text import printable
from hbtrio.wire.operator import AnyEventLine

#: A text with one of the colours of ``screen``, or ``title``, ``bar``, or ``chosen``.
Piece = tuple[str, str]
Line = list[Piece]

#: How many lines about the daemon and how many windows are shown at most.
_HEAD: Final = 4
_WINDOWS: Final = 6

#: Heights from which on there are windows and events, and the least of the table.
_WITH_EVENTS: Final = 14
_TABLE: Final = 5

#: Widths in cells from which on there are further columns.
_WITH_HEALTH: Final = 72
_WITH_TRIP: Final = 90
_WITH_MISSED: Final = 110

_BAR: Final = 20
_GAP: Final = "  "

HELP: Final = (
    ("Up Down j k", "choose an instance"),
    ("PgUp PgDn Space b", "a page"),
    ("Home End g G", "the first, the last"),
    ("Enter", "the instance in detail, and back"),
    ("/", "filter by any text; Esc clears it"),
    ("s S", "sort by the next, the previous column"),
    ("u", "only lost, ill, absent, unwatched"),
    ("Ctrl-L", "draw everything again"),
    ("?", "this help"),
    ("q Ctrl-C", "leave"),
)


def picture(board: Board, columns: int, rows: int, now: float) -> tuple[list[Line], int]:
    """The lines of the screen from top to bottom, and how many rows the table has.

    Args:
        board: what to show.
        columns: the screen's width; no line is wider.
        rows: its height; there are exactly so many lines.
        now: the time on trio's clock.
    """
    head = [*_head(board)][: max(1, min(_HEAD, rows // 4))]
    foot = [_foot(board, columns)]
    room = max(0, rows - len(head) - len(foot))
    if board.pane == "help":
        body, page = [[], *_help()], 1
    elif board.pane == "detail":
        body, page = [[], *_detail(board, columns, room, now)], 1
    else:
        body, page = _table_and_more(board, columns, room, now)
    body = [*body[:room], *([[]] * (room - len(body)))]
    lines = [*head, *body, *foot][:rows]
    return [_cut(line, columns) for line in lines], page


def _head(board: Board) -> Iterator[Line]:
    if board.away:
        yield [(f"AWAY, trying again; what is below is old: {board.away}", "bad")]
    if not board.head:
        yield [(f"connecting to {board.source}", "faint")]
    for place, (text, colour) in enumerate(board.head):
        if place == 0:
            yield [(text, "title")]
        elif colour in ("bad", "warn"):
            yield [(text, colour)]


def _foot(board: Board, columns: int) -> Line:
    if board.typing:
        return [
            ("filter: ", "title"),
            (f"{board.filter}_", ""),
            ("   Enter keeps, Esc clears", "faint"),
        ]
    if board.pane != "table":
        return [
            ("Esc back  Up Down another instance" if board.pane == "detail" else "any key", "faint")
        ]
    chosen = f"{len(board.shown)} of {len(board.rows)}, by {board.order}"
    if board.unhealthy:
        chosen += ", unhealthy only"
    if board.filter:
        chosen += f", with {board.filter}"
    keys = "? help  / filter  s sort  u unhealthy  Enter detail  q quit"
    for text in (keys, "? help  / filter  s sort  q quit", "? help"):
        if width_of(chosen) + 2 + len(text) <= columns:
            blanks = " " * (columns - width_of(chosen) - len(text))
            return [(chosen, "title"), (blanks, ""), (text, "faint")]
    return [(chosen, "title")]


def _help() -> list[Line]:
    width = max(len(keys) for keys, _ in HELP)
    return [[(f"  {keys:{width}}  ", "title"), (text, "")] for keys, text in HELP]


def _detail(board: Board, columns: int, room: int, now: float) -> list[Line]:
    row = board.rows.get(board.chosen)
    if row is None:
        return [[("it is gone", "faint")]]
    lines = [_fact(one) for one in detail_lines(row)]
    lines += [_window(row, one, columns, now) for one in row.windows]
    if board.known is not None and board.known.uuid == row.uuid:
        voters = [_fact(one) for one in voter_lines(board.known)]
        # Three quarters of what is left, for the events have the rest.
        most = max(2, 3 * (room - len(lines)) // 4)
        if len(voters) > most:
            voters[most - 1 :] = [_fact(("", "and more: see `hbtrio ctl show`", "faint"))]
        lines += voters
    own = [event for event in board.events if event.uuid == row.uuid]
    left = max(0, room - len(lines) - 3)
    if own and left:
        lines += [[], [("Events", "title")], *(_event(one, board, columns) for one in own[-left:])]
    return lines


def _fact(fact: FactLine) -> Line:
    name, text, colour = fact
    return [(f"{name:>14}  ", "faint"), (text, colour)]


def _table_and_more(board: Board, columns: int, room: int, now: float) -> tuple[list[Line], int]:
    windows: list[Line] = []
    events: list[Line] = []
    if room >= _WITH_EVENTS:
        found = board.windows
        windows = [_window(row, one, columns, now) for row, one in found[:_WINDOWS]]
        if len(found) > _WINDOWS:
            windows[-1] = [(f"... {len(found) - _WINDOWS + 1} more windows", "faint")]
        if windows:
            windows = [[], *windows]
        # A quarter, and what the table leaves.
        left = room - len(windows) - 4
        height = max(min(max(3, room // 4), left - _TABLE), left - max(_TABLE, len(board.shown)))
        last = board.events[-height:] if height > 0 else ()
        if last:
            events = [[], [("Events", "title")], *(_event(one, board, columns) for one in last)]
    page = max(1, room - len(windows) - len(events) - 2)
    top = board.scrolled(page).top
    rows = board.shown[top : top + page]
    table = [[], *_table(board, rows, columns)]
    if not rows and board.head:
        table.append([("no instance is shown", "faint")])
    table += [[]] * (page + 2 - len(table))
    return [*windows, *table, *events], page


def _table(board: Board, rows: tuple[Row, ...], columns: int) -> list[Line]:
    # As wide as the widest of all, so that the columns keep their places while one scrolls.
    longest = max((width_of(row.name) for row in board.shown), default=4)
    wide = [("NAME", min(max(4, longest), max(12, columns // 4)))]
    if board.fleet:
        longest = max((width_of(row.host) for row in board.shown), default=4)
        wide.append(("HOST", min(max(4, longest), max(9, columns // 6))))
    wide.append(("STATE", 12))
    if columns >= _WITH_HEALTH:
        wide.append(("HEALTH", 9))
    if not board.fleet and columns >= _WITH_TRIP:
        wide.append(("RTT ms", 7))
    if not board.fleet and columns >= _WITH_MISSED:
        wide.append(("MISSED", 6))
    used = sum(width for _, width in wide) + len(_GAP) * len(wide)
    wide.append(("WHY", max(0, columns - used)))
    titles = _GAP.join(padded(name, width, right=name in _RIGHT) for name, width in wide)
    return [[(titles, "title")], *(_row(board, row, wide) for row in rows)]


_RIGHT: Final = ("RTT ms", "MISSED")


def _row(board: Board, row: Row, wide: list[tuple[str, int]]) -> Line:
    trip = row.round_trip_ms
    cells = {
        "NAME": (row.name, ""),
        "HOST": (row.host, ""),
        "STATE": (row.state, STATE_COLOURS.get(row.state, "")),
        "HEALTH": (row.health, HEALTH_COLOURS.get(row.health, "")),
        "RTT ms": ("-" if trip is None else f"{trip:.1f}", ""),
        "MISSED": ("-" if row.missed is None else str(row.missed), ""),
        "WHY": (row.why, ""),
    }
    line: Line = []
    for name, width in wide:
        text, colour = cells[name]
        line += [(padded(text, width, right=name in _RIGHT), colour), (_GAP, "")]
    if row.uuid == board.chosen:
        return [("".join(text for text, _ in line[:-1]), "chosen")]
    return line[:-1]


def _window(row: Row, window: Window, columns: int, now: float) -> Line:
    left_s = max(0.0, window.deadline - now)
    full = min(_BAR, math.ceil(_BAR * left_s / window.whole_s))
    what = f"{row.name}  {window.title}"
    width = max(10, columns - _BAR - len("  9999 s left") - 2)
    return [
        (padded(what, min(width, 44)), ""),
        (_GAP, ""),
        ("█" * full, "bar"),
        ("░" * (_BAR - full), "faint"),
        (f"{math.ceil(left_s):6} s left", ""),
    ]


def _event(event: AnyEventLine, board: Board, columns: int) -> Line:
    row = board.rows.get(event.uuid)
    name = (
        printable(event.name) or (row.name if row else event.uuid[:8]) or printable(event.hostname)
    )
    what, colour, outcome = what_happened(event)
    return [
        (f"{clock(event.time)} ", "faint"),
        (f"{clipped(name, max(8, columns // 4))} ", ""),
        (printable(what), colour),
        (printable(outcome), ""),
    ]


def _cut(line: Line, columns: int) -> Line:
    """The line, cut to a width."""
    left = columns
    cut: Line = []
    for place, (text, colour) in enumerate(line):
        rest = sum(width_of(other) for other, _ in line[place:])
        if rest <= left:
            return [*cut, *line[place:]]
        if width_of(text) >= left:
            return [*cut, (clipped(text + " ", left) if left else "", colour)]
        cut.append((text, colour))
        left -= width_of(text)
    return cut
