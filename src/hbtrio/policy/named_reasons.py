"""Puts names before reasons, and several reasons into one text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Longest text, in characters: no more than this fits into a message or belongs on a log line.
MAX_CHARACTERS: Final = 1000


def named(name: str, reason: str) -> str:
    """Returns ``name: reason``, or the name alone if there is no reason."""
    return f"{name}: {reason}" if reason else name


def joined(reasons: Iterable[str]) -> str:
    """Joins reasons with semicolons, without the empty ones.

    At most ``MAX_CHARACTERS`` of the text are returned: a thousand applications may be ill, and are
    asked for their health at every challenge.
    """
    text = ""
    for reason in reasons:
        if reason:
            text = f"{text}; {reason}" if text else reason
        if len(text) >= MAX_CHARACTERS:
            break
    return text[:MAX_CHARACTERS]
