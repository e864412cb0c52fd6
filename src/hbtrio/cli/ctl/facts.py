"""Terms and what is known of them, one below the other; long values go on in the next line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
from rich.cells import cell_len, chop_cells

from hbtrio.cli.ctl.screen import Screen
from hbtrio.text import printable

#: The narrowest that a value is made; a narrower terminal breaks its lines itself.
_NARROW: Final = 24

#: Where a text may be broken.
_BREAK: Final = re.compile(r" (?![0-9.]+ (?:s|ms|min|h|d)\b)(?!(?:s|ms|min|h|d)\b)")


@attrs.frozen
class Fact:
    """A term, and what is known of it: several texts stand below each other.

    Args:
        term: the term.
        values: the texts; a fact without one is left out.
        colour: one of :data:`hbtrio.cli.ctl.screen.COLOURS`.
    """

    term: str
    values: Sequence[str]
    colour: str = ""


def write_facts(screen: Screen, facts: Iterable[Fact]) -> None:
    """Writes facts that have values, the values aligned."""
    shown = [one for one in facts if any(one.values)]
    indent = max((len(one.term) for one in shown), default=0) + 3
    for one in shown:
        start = f"{one.term}:".ljust(indent)
        for value in filter(None, one.values):
            for line in wrapped(printable(value), screen.columns, indent):
                screen.line(start, (line, one.colour))
                start = " " * indent


def write_paragraph(screen: Screen, start: str, text: str, colour: str = "") -> None:
    """Writes a text behind a start, which the text's further lines are indented to."""
    indent = cell_len(start)
    for line in wrapped(printable(text), screen.columns, indent):
        screen.line(start, (line, colour))
        start = " " * indent


def wrapped(text: str, width: int | None, indent: int) -> list[str]:
    """A text in lines that fit beside an indent; None: on one line, as there is no terminal.

    A number stays with its unit: ``VOTE 9 s`` is not torn apart.
    """
    if width is None:
        return [text]
    room = max(_NARROW, width - indent)
    lines: list[str] = []
    line = ""
    for word in _BREAK.split(text):
        together = f"{line} {word}" if line else word
        if cell_len(together) <= room:
            line = together
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, room) or [""]
        lines += whole
    return [*lines, line]
