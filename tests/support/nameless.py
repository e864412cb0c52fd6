"""Lines of a log about an instance that don't name it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from hbtrio.log.lines import message
from hbtrio.log.subject import Find, note_subject


def nameless(lines: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The lines with an instance's uuid, but without its name, once the log has named it.

    Args:
        lines: the log of one daemon.
        names: of instances, by uuid. A daemon may find an instance before it hears its name.
    """
    found = []
    for uuid, name in names.items():
        about = [line for line in lines if uuid in line]
        named = [f"({name})" in line for line in about]
        first = named.index(True) if True in named else 0
        found += [line for line in about[first:] if f"({name})" not in line]
    return found


class NamingHandler(logging.Handler):
    """Makes lines of records as a daemon's log does, at the moment in which they are logged.

    Args:
        find: what the daemon knows of whom a line names.
    """

    def __init__(self, find: Find) -> None:
        super().__init__(logging.INFO)
        self.find = find
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        note_subject(record, self.find)
        self.lines.append(message(record))
