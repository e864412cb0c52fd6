"""Times as an operator reads them: local, whatever zone the daemon is in.

The zone is that of this process: TZ, else the machine's. A text that is not a time is shown as it
is, since a newer daemon may use another format.
"""

from __future__ import annotations

from datetime import datetime


def moment(text: str) -> str:
    """A time with its offset, such as ``2026-01-31 09:00:00+01:00``; ``text`` is RFC 3339."""
    local = _local(text)
    return text.replace("T", " ") if local is None else local.isoformat(" ")


def stamp(text: str) -> str:
    """A time to the millisecond and without its offset, for lists of events."""
    local = _local(text)
    if local is None:
        return text[:23].replace("T", " ")
    return local.replace(tzinfo=None).isoformat(" ", "milliseconds")


def clock(text: str) -> str:
    """The time of day to the second."""
    local = _local(text)
    return text[11:19] if local is None else f"{local:%H:%M:%S}"


def _local(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        # One without an offset may be of any zone.
        return None if time.tzinfo is None else time.astimezone()
    except (ValueError, OverflowError, OSError):
        return None
