"""Reads and writes a schedule as lines of JSON: the test case first, then a line for each fault.

Lines that begin with ``#`` and empty ones are skipped, so that a file can say what it once found.
What is written reads back as exactly the same numbers.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import attrs
import msgspec

from hbtrio.errors import UserError
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.text import printable

#: The longest file that is read, in bytes; a drawn schedule has about 5 KiB.
LIMIT_BYTES: Final = 1024 * 1024

_T = TypeVar("_T", bound=attrs.AttrsInstance)


def to_text(schedule: Schedule) -> str:
    """Returns a schedule as lines of JSON."""
    head = {
        key: value
        for key, value in attrs.asdict(schedule).items()
        if key != "faults" and value is not None
    }
    lines = [head, *map(_without_none, schedule.faults)]
    return "".join(f"{msgspec.json.encode(line).decode()}\n" for line in lines)


def _without_none(fault: Fault) -> dict[str, Any]:
    return attrs.asdict(fault, filter=lambda _field, value: value is not None)


def from_text(text: str, name: str) -> Schedule:
    """Returns the schedule that a text describes, its faults in the order of their times.

    Args:
        text: of the file.
        name: of the file, for the error.

    Raises:
        UserError: the first fault of the text, with the file's name and the line.
    """
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise UserError(f"{name}: no schedule: the first line has seed, minutes, vms and hosts")
    schedule = _decoded(lines[0], name, Schedule, left_out="faults")
    faults = [_decoded(line, name, Fault) for line in lines[1:]]
    return attrs.evolve(schedule, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))


def read(path: str) -> Schedule:
    """Reads a schedule from a file.

    Raises:
        UserError: the file can't be read, is too large or not UTF-8, or :func:`from_text` finds a
            fault in it.
    """
    name = printable(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(LIMIT_BYTES + 1)
        if len(raw) > LIMIT_BYTES:
            raise UserError(f"{name}: over {LIMIT_BYTES} bytes, too large for a schedule")
        return from_text(raw.decode(), name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: not UTF-8") from error


def _decoded(numbered: tuple[int, str], name: str, cls: type[_T], left_out: str = "") -> _T:
    """Decodes a line strictly: "1" is no number, and an unknown key is a fault."""
    number, line = numbered
    place = f"{name}:{number}"
    try:
        value = msgspec.json.decode(line.encode())
        known = [field.name for field in attrs.fields(cls) if field.name != left_out]
        if isinstance(value, dict) and (unknown := sorted(value.keys() - set(known))):
            raise UserError(
                f"{place}: unknown key {printable(unknown[0])}, there are {', '.join(known)}"
            )
        return msgspec.convert(value, cls)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UserError(f"{place}: {printable(str(error))}") from error
