"""Finds the line on which each key of a TOML text stands.

tomllib has the line of a syntax fault, but forgets those of the keys that it has read. Only a text
that it has accepted gets here. So nothing is checked: the scan only has to know where keys, strings
and brackets end, and everything else up to the next comma, bracket, comment or end of line is one
value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Final

import attrs

# Commas separate nothing that matters here.
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
_DOT: Final = re.compile(r"(?:[ \t]*\.[ \t]*)?")
_EQUALS: Final = re.compile(r"[ \t]*=[ \t]*")
_HEADER: Final = re.compile(r"\[{1,2}[ \t]*")
_HEADER_END: Final = re.compile(r"[ \t]*\]{1,2}")
_OPENING: Final = re.compile(r"[\[{]?")
_CLOSING: Final = re.compile(r"[\]}]?")
# A long string may end with two quotes of its own before the three that close it.
_VALUE: Final = re.compile(
    r'''
    """ (?:\\.|[^\\])*? """ "{0,2}
    | \'\'\' .*? \'\'\' '{0,2}
    | " (?:\\.|[^"\\])* "
    | ' [^']* '
    | [^,\]}\#\n]+
    ''',
    re.VERBOSE | re.DOTALL,
)


@attrs.define
class Place:
    """Where a key, a table or an item of a list stands.

    Args:
        line: the line, from 1; 0 for the whole text.
        keys: the places of a table's keys.
        items: the places of a list's items.
    """

    line: int
    keys: dict[str, Place] = attrs.field(factory=dict)
    items: list[Place] = attrs.field(factory=list)

    def line_of(self, path: Iterable[str | int]) -> int:
        """Return the line of a path of keys and of indexes from 0.

        Of a path that doesn't stand in the text, the line of the last part that does; 0: none.
        """
        place = self
        for part in path:
            below = place._below(part)
            if below is None:
                break
            place = below
        return place.line

    def exact_line_of(self, path: Iterable[str | int]) -> int:
        """Return the line of a path; 0 if it doesn't stand in the text."""
        place: Place | None = self
        for part in path:
            place = place._below(part) if place else None
        return place.line if place else 0

    def _below(self, part: str | int) -> Place | None:
        if isinstance(part, str):
            return self.keys.get(part)
        return self.items[part] if part < len(self.items) else None


def find_places(text: str) -> Place:
    """Return the places of all keys of a text that tomllib accepts, in linear time and memory."""
    return _Scan(text).run()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def run(self) -> Place:
        root = table = Place(0)
        while True:
            self._take(_BETWEEN)
            if self._at == len(self._text):
                return root
            if self._text[self._at] == "[":
                table = self._header(root)
            else:
                self._value(self._entry(table))

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, f"not TOML at offset {self._at}"
        self._at = match.end()
        self._line += match[0].count("\n")
        return match[0]

    def _names(self) -> list[str]:
        names = [_unquoted(self._take(_KEY))]
        while self._take(_DOT):
            names.append(_unquoted(self._take(_KEY)))
        return names

    def _header(self, root: Place) -> Place:
        """Take ``[table]`` or ``[[table]]``; return the table's place."""
        line = self._line
        is_item = self._take(_HEADER).startswith("[[")
        place = root
        for name in self._names():
            # What is below a list of tables is in the last of them.
            place = place.items[-1] if place.items else place
            place = place.keys.setdefault(name, Place(line))
        self._take(_HEADER_END)
        if is_item:
            place.items.append(Place(line))
            return place.items[-1]
        # A header of a table below it may have stood before.
        place.line = line
        return place

    def _entry(self, table: Place) -> Place:
        """Take ``key =``; return the key's place."""
        line = self._line
        for name in self._names():
            table = table.keys.setdefault(name, Place(line))
        self._take(_EQUALS)
        return table

    def _value(self, place: Place) -> None:
        """Take a value; without recursion, so what tomllib could nest can be nested here."""
        opened: list[tuple[str, Place]] = []
        while True:
            if bracket := self._take(_OPENING):
                opened.append((bracket, place))
            else:
                self._take(_VALUE)
            self._take(_BETWEEN)
            while opened and self._take(_CLOSING):
                opened.pop()
                self._take(_BETWEEN)
            if not opened:
                return
            bracket, above = opened[-1]
            if bracket == "{":
                place = self._entry(above)
            else:
                place = Place(self._line)
                above.items.append(place)


def _unquoted(key: str) -> str:
    text: str = tomllib.loads(f"key = {key}")["key"] if key[0] in "\"'" else key
    return text
