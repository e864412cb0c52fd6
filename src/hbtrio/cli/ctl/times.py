"""Times as an operator reads them: local, whatever zone the daemon is in.

The zone is that of this process: TZ, else the machine's. A text that is not a time is shown as it
is, since a newer daemon may use another format.
"""

from __future__ import annotations

from datetime import UTC, datetime


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


def span_since(text: str) -> str:
    """How long ago a time was by this machine's clock, in brackets; "" if that is unknown."""
    local = _local(text)
    seconds = -1 if local is None else (datetime.now(UTC) - local).total_seconds()
    return f" ({span(seconds)})" if seconds >= 0 else ""


def span(seconds: float) -> str:
    """A time span in its two largest units, such as ``4 h 2 min``."""
    left = int(seconds)
    words: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2])


def _local(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        # One without an offset may be of any zone.
        return None if time.tzinfo is None else time.astimezone()
    except (ValueError, OverflowError, OSError):
        return None
