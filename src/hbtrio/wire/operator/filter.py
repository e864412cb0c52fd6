"""Which events, or entries of a history, a client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

#: The kind of the line that ends a stream whose reader was too slow; nobody can do without it.
_LOST = "lost"


class FilterFault(Exception):
    """A query that is none; the text names the key and the fault."""


@attrs.frozen(kw_only=True)
class EventFilter:
    """What is asked for; by default everything.

    Args:
        uuid: only events of this instance; "" for any.
        kinds: only events of these kinds; none: of any.
        since: only events from then on, with a zone; None: from the first one on.
        by: only what was asked for by somebody whose name contains this text.
        group: only events of the members of this group; "" for any.
        members: who they are; None: whoever it may be. It is no part of a query.
    """

    uuid: str = ""
    kinds: frozenset[str] = frozenset()
    since: datetime | None = None
    by: str = ""
    group: str = ""
    members: frozenset[str] | None = None

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> EventFilter:
        """Reads the keys ``uuid``, ``kind``, ``since``, ``by`` and ``group`` of a URL's query.

        Raises:
            FilterFault: ``since`` is no time with an offset.
        """
        kinds = query.get("kind", "")
        return cls(
            uuid=query.get("uuid", "").lower(),
            kinds=frozenset(kinds.split(",")) - {""},
            since=_time(query["since"]) if "since" in query else None,
            by=query.get("by", ""),
            group=query.get("group", ""),
        )

    def as_query(self) -> dict[str, str]:
        """The keys of a URL's query, not quoted yet; those that ask for nothing are left out."""
        since = "" if self.since is None else self.since.isoformat()
        keys = {
            "uuid": self.uuid,
            "kind": ",".join(sorted(self.kinds)),
            "since": since,
            "by": self.by,
            "group": self.group,
        }
        return {key: value for key, value in keys.items() if value}

    @property
    def looks_inside(self) -> bool:
        """Whether more than the instance decides."""
        return bool(self.kinds or self.since or self.by or self.group)

    def takes(self, *, uuid: str, kind: str, time: str, who: str) -> bool:
        """Whether an event is asked for; a time that can't be read is."""
        if kind == _LOST:
            return True
        if (self.uuid and uuid != self.uuid) or (self.kinds and kind not in self.kinds):
            return False
        if self.members is not None and uuid not in self.members:
            return False
        if self.by and self.by not in who:
            return False
        if self.since is None:
            return True
        try:
            return _time(time) >= self.since
        except FilterFault:
            return True


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise FilterFault(f"since: not a time with an offset: {text[:40]!r}")
    return time
