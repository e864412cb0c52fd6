"""Tables on a screen of any width."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import attrs

from hbtrio.cli.ctl.screen import Screen, clipped, padded, width_of
from hbtrio.text import printable

#: Colours of states and health.
STATE_COLOURS: Final = {
    "heartbeating": "good",
    "lost": "bad",
    "unwatched": "bad",
    "suspended": "warn",
    "returning": "warn",
    "restarting": "warn",
    "paused": "warn",
    "stopped": "warn",
    "absent": "warn",
    "not watched": "warn",
}
HEALTH_COLOURS: Final = {"healthy": "good", "unhealthy": "bad"}

#: The width in cells from which on a table shows complete uuids.
_WITH_UUID: Final = 120

#: The shortest abbreviation of a uuid, and the narrowest that a column is made.
_ABBREVIATION: Final = 8
_NARROW: Final = 8

_GAP: Final = "  "


@attrs.define
class Column:
    """A column: head, cells with their colours, alignment, and whether it may be cut."""

    head: str
    cells: list[tuple[str, str]]
    right: bool = False
    flexible: bool = False
    width: int = 0

    def __attrs_post_init__(self) -> None:
        """As wide as its widest cell."""
        self.width = max(map(width_of, [self.head, *(text for text, _ in self.cells)]))


def column(head: str, cells: list[str], colours: dict[str, str] | None = None) -> Column:
    """A column of texts; ``colours`` of those that have one."""
    plain = [printable(cell) for cell in cells]
    return Column(head, [(cell, (colours or {}).get(cell, "")) for cell in plain])


def numbers(head: str, cells: list[str]) -> Column:
    """A column of numbers."""
    return attrs.evolve(column(head, cells), right=True)


def uuid_length(uuids: list[str], width: int | None) -> int:
    """To how many characters uuids can be cut while they remain distinct.

    Args:
        uuids: all that are shown.
        width: the screen's, None for a pipe; wide screens and pipes get complete uuids.
    """
    length = _ABBREVIATION
    if width is None or width >= _WITH_UUID:
        length = max(map(len, uuids), default=length)
    ordered = sorted(uuids)
    for one, other in pairwise(ordered):
        while length < len(one) and one[:length] == other[:length]:
            length += 1
    return length


def short_uuid(uuid: str, width: int | None) -> str:
    """A uuid as part of a line: complete on a wide screen or a pipe, else cut."""
    return uuid if width is None or width >= _WITH_UUID else uuid[:_ABBREVIATION]


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def in_brackets(text: str) -> str:
    """A text in brackets behind a blank; "" for none."""
    return f" ({text})" if text else ""


def write_clipped(screen: Screen, text: str, colour: str) -> None:
    """Writes a line that is no wider than the screen."""
    width = screen.columns
    screen.line((text if width is None else clipped(printable(text), width), colour))


def write_table(screen: Screen, columns: list[Column]) -> None:
    """Writes an empty line, the heads and the rows, at most as wide as the screen."""
    width = screen.columns
    _fit(columns, width)
    screen.line()
    heads = [_cell(one.head, one) for one in columns]
    screen.line(*_cut([(_GAP.join(heads).rstrip(), "")], width))
    whole = sum(one.width for one in columns) + len(_GAP) * (len(columns) - 1)
    too_wide = width is not None and whole > width
    rows = zip(*(one.cells for one in columns), strict=True)
    painted = zip(*(_painted(screen, one) for one in columns), strict=True)
    for cells, texts in zip(rows, painted, strict=True):
        if too_wide or not cells[-1][0]:
            screen.line(*_cut(_pieces(cells, columns), width))
        else:
            screen.painted_line(_GAP.join(texts).rstrip())


def _painted(screen: Screen, one: Column) -> list[str]:
    """A column's cells as they are written; of thousands, most are alike."""
    made = {
        (text, colour): screen.painted(_cell(text, one), colour) for text, colour in set(one.cells)
    }
    return [made[cell] for cell in one.cells]


def _pieces(cells: tuple[tuple[str, str], ...], columns: list[Column]) -> list[tuple[str, str]]:
    pieces: list[tuple[str, str]] = []
    end = max((place for place, (text, _) in enumerate(cells) if text), default=0)
    for (text, colour), one in zip(cells[:end], columns, strict=False):
        pieces += [(_cell(text, one), colour), (_GAP, "")]
    # No blanks after the last cell that is not empty.
    text, colour = cells[end]
    return [*pieces, (_cell(text, columns[end]).rstrip(), colour)]


def _fit(columns: list[Column], width: int | None) -> None:
    """Makes the table as wide as the screen: the flexible columns share what the others leave."""
    if width is None:
        return
    flexible = sorted((one for one in columns if one.flexible), key=lambda one: one.width)
    room = width - len(_GAP) * (len(columns) - 1)
    room -= sum(one.width for one in columns if not one.flexible)
    for sharers, one in zip(range(len(flexible), 0, -1), flexible, strict=True):
        # The narrow ones come first: what they do not need goes to the others.
        one.width = min(one.width, max(_NARROW, room // sharers))
        room -= one.width


def _cut(pieces: list[tuple[str, str]], width: int | None) -> list[tuple[str, str]]:
    """Cuts a row that is still too wide: wrapped, it would look like two rows."""
    if width is None or sum(width_of(text) for text, _ in pieces) <= width:
        return pieces
    cut: list[tuple[str, str]] = []
    for text, colour in pieces:
        # One cell is for the ellipsis that ends each cut row.
        if width_of(text) >= width:
            return [*cut, (clipped(text + " ", width), colour)]
        cut.append((text, colour))
        width -= width_of(text)
    return cut


def _cell(text: str, one: Column) -> str:
    return padded(text, one.width, right=one.right)
