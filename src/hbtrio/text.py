"""Makes text of unknown origin fit for where it goes: a terminal, a log, JSON or a command.

Names, reasons and output are tenants' texts. A character is unprintable if its Unicode category is
one of Other (control, format, surrogate, private use, unassigned) or Separator (line, paragraph,
space), the ASCII blank excepted: escape sequences, C1 controls, bidirectional overrides, U+0085,
U+2028. Such a character leaves a daemon only through a function of this module.
"""

from __future__ import annotations

from collections.abc import Callable


def printable(text: str) -> str:
    """Returns ``text`` on one line, with unprintable characters escaped as in Python."""
    return _replaced(text, lambda char: char.encode("unicode_escape").decode("ascii"))


def printable_lines(text: str) -> str:
    """As :func:`printable`, but keeps the newlines."""
    return "\n".join(map(printable, text.split("\n")))


def blanked(text: str) -> str:
    """Returns ``text`` on one line, with a blank in place of each unprintable character."""
    return _replaced(text, lambda char: " ")


def as_argument(text: str) -> str:
    """Returns ``text`` as a value for a command's argument, which no program takes as an option.

    Unprintable characters become blanks, and blanks at the ends are removed: a shell that splits
    the value must not come upon a leading ``-`` either. A leading ``-`` gets a ``_`` before it. The
    result is empty if nothing is left.
    """
    value = blanked(text).strip()
    return f"_{value}" if value.startswith("-") else value


def printable_json(data: bytes) -> bytes:
    r"""Writes the unprintable characters in a JSON text as ``\uXXXX``; its value stays the same.

    Args:
        data: a valid JSON text on one line, in UTF-8. So what is unprintable is inside a string.
    """
    if data.isascii() and b"\x7f" not in data:
        return data
    return _replaced(data.decode(), _json_escape).encode()


def _json_escape(char: str) -> str:
    # Beyond U+FFFF JSON escapes a surrogate pair.
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _replaced(text: str, replacement: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    # By distinct character: a large status of hostile texts must not delay a heartbeat.
    unprintable = (char for char in set(text) if not char.isprintable())
    return text.translate({ord(char): replacement(char) for char in unprintable})


def reason_after(head: str, reason: str) -> str:
    """Returns a reason to stand behind a head: ``paused`` and ``paused: user`` name it once."""
    return reason.removeprefix(f"{head}: ")
