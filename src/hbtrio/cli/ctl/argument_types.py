"""Types of the arguments of ``hbtrio ctl``: words, numbers, ids of entries, moments."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

#: How similar a word must be to a known one for that one to be proposed.
_ALIKE: Final = 0.7

_SPAN: Final = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
#: What follows if a guest has rejected to the end.
GIVE_UP, FORCE = "give-up", "force"

#: The longest time to ask again for, in seconds: a week.
_LONGEST_RETRY_S: Final = 604_800.0

_CLOCK: Final = re.compile(r"\d{2}:\d{2}(?::\d{2})?", re.ASCII)


class Words:
    """Accepts one of a set of words; for another word the error proposes similar ones.

    Args:
        what: what the words name, for the error.
        known: the words.
        unfit: further such words, which this command does not take, each with the reason.
    """

    def __init__(
        self, what: str, known: Sequence[str], unfit: Mapping[str, str] | None = None
    ) -> None:
        self._what = what
        self.known = known
        self._unfit = unfit or {}

    def __call__(self, text: str) -> str:
        """The word itself.

        Raises:
            ArgumentTypeError: it is not one of them.
        """
        if text in self.known:
            return text
        if text in self._unfit:
            raise argparse.ArgumentTypeError(f"{text}: {self._unfit[text]}")
        meant = self._meant(text)
        if meant:
            hint = f"did you mean {' or '.join(meant)}?"
        else:
            hint = f"choose from {', '.join(self.known)}"
        raise argparse.ArgumentTypeError(f"no such {self._what}: {text!r}, {hint}")

    def _meant(self, text: str) -> list[str]:
        """The known words that may be meant; events have underscores, actions have hyphens."""
        plain = {_plain(word): word for word in self.known}
        beginning = [word for key, word in plain.items() if key.startswith(_plain(text)[:80])]
        if beginning and len(text) > 2:
            return beginning
        close = difflib.get_close_matches(_plain(text)[:80], list(plain), 1, _ALIKE)
        return [plain[key] for key in close]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def entry_id(text: str) -> int:
    """The id of an entry of the history.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"not an entry id: {text!r}")
    return int(text)


def number(least: int, most: int) -> Callable[[str], int]:
    """A type for whole numbers of a range, both ends included."""

    def read(text: str) -> int:
        plain = text.isascii() and text.isdigit() and len(text) <= 15
        if not (plain and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"not a number from {least} to {most}: {text!r}")
        return int(text)

    return read


def span(text: str) -> float:
    """A length of time in seconds, as 90s, 15m, 1h30m or 2d.

    Raises:
        ArgumentTypeError: it is none.
    """
    parts = _SPAN.fullmatch(text)
    if parts is None or not text:
        hint = "not a length of time: give 90s, 15m, 1h30m or 2d"
        raise argparse.ArgumentTypeError(f"{hint}: {text[:40]!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return timedelta(days, seconds, 0, 0, minutes, hours).total_seconds()


def retry_span(text: str) -> float:
    """A time to ask again for, 1 s to a week.

    Raises:
        ArgumentTypeError: it is none.
    """
    seconds = span(text)
    if not 1 <= seconds <= _LONGEST_RETRY_S:
        raise argparse.ArgumentTypeError(f"not 1s to 7d: {text!r}")
    return seconds


def moment_before(now: datetime) -> Callable[[str], datetime]:
    """A type for a moment up to ``now``: how long ago it was, or a date, a time, or both.

    Args:
        now: with a zone, which is that of dates and times without one.
    """

    def read(text: str) -> datetime:
        try:
            if _SPAN.fullmatch(text) is not None and text:
                return now - timedelta(seconds=span(text))
            if _CLOCK.fullmatch(text):
                text = f"{now:%Y-%m-%d} {text}"
            at = datetime.fromisoformat(text)
            return at.replace(tzinfo=now.tzinfo) if at.tzinfo is None else at
        except (ValueError, OverflowError):
            hint = "not a time: give how long ago (90s, 15m, 1h30m, 2d), 12:00, or 2026-01-31 12:00"
            raise argparse.ArgumentTypeError(f"{hint}: {text[:40]!r}") from None

    return read


def moment_after(now: datetime) -> Callable[[str], datetime]:
    """A type for a moment to come: in how long it comes, or a date, a time, or both.

    A time alone is the next one of that name.

    Args:
        now: with a zone, which is that of dates and times without one.
    """
    before = moment_before(now)

    def read(text: str) -> datetime:
        try:
            at = before(text)
            if _SPAN.fullmatch(text):
                return now + (now - at)
            return at + timedelta(days=1) if _CLOCK.fullmatch(text) and at <= now else at
        except (argparse.ArgumentTypeError, OverflowError):
            hint = "not a time: give in how long (90s, 15m, 2h, 1d), 12:00, or 2026-01-31 12:00"
            raise argparse.ArgumentTypeError(f"{hint}: {text[:40]!r}") from None

    return read
