"""Answers requests for a page of a daemon's history."""

from __future__ import annotations

from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from hbtrio.api import common as api_parts
from hbtrio.store.daemon_store import PAGE
from hbtrio.store.records import HistoryEntry, HistoryRecord
from hbtrio.wire.operator import EventFilter, FleetEventLine, History

#: History entries by default.
LIMIT: Final = 100

#: The largest id of a history entry that JSON carries exactly everywhere.
LAST_ID: Final = 10**15 - 1

#: How many pages one request looks through for what it asks for; the client goes on from there.
_PAGES: Final = 20

#: An entry may have been kept earlier than it happened, if its host's clock is ahead, in seconds.
_AHEAD_S: Final = 3600.0


class Read(Protocol):
    """Reads a history, the newest entry first; see :meth:`.DaemonStore.history`."""

    async def __call__(
        self, limit: int, *, before: int, uuid: str | None, kept_since: float | None
    ) -> tuple[HistoryRecord, ...]:
        """Returns records."""


async def history_page(request: Request, read: Read, wanted: EventFilter) -> Response:
    """The page that a request asks for.

    A request that asks for few kinds of entries may get less than it asks for, and even nothing,
    before the end: no more than ``_PAGES`` pages are looked through.

    Args:
        request: the request, with ``limit`` and ``before`` in its query.
        read: reads the history, the newest first.
        wanted: which entries its query asks for.
    """
    limit = api_parts.number(request, "limit", LIMIT, PAGE)
    before = api_parts.number(request, "before", LAST_ID, LAST_ID)
    uuid = wanted.uuid if "uuid" in request.query_params else None
    since = None if wanted.since is None else wanted.since.timestamp() - _AHEAD_S
    size = PAGE if wanted.looks_inside else limit
    lines: list[FleetEventLine] = []
    for _ in range(_PAGES):
        records = await read(size, before=before, uuid=uuid, kept_since=since)
        for record in records:
            if len(lines) >= limit:
                break
            line, before = history_line(record.entry, record.id), record.id
            if api_parts.is_wanted(line, wanted):
                lines.append(line)
        if len(lines) >= limit or len(records) < size:
            break
    # Where the next page begins; none at the end.
    ended = not records or (len(records) < size and before == records[-1].id)
    return api_parts.answer(History(history=tuple(lines), before=None if ended else before))


def history_line(entry: HistoryEntry, id_: int | None = None) -> FleetEventLine:
    """An entry of the history.

    Args:
        entry: the entry.
        id_: its id in the store; None for one that is only announced.
    """
    asked_at = entry.asked_at
    return FleetEventLine(
        id=id_,
        time=entry.time.isoformat(timespec="milliseconds"),
        kind=entry.kind,
        uuid=entry.uuid,
        hostname=entry.hostname,
        event=entry.event or "",
        result=entry.result or "",
        corrective_action=entry.corrective_action or "",
        who=entry.who,
        asked_at="" if asked_at is None else asked_at.isoformat(timespec="milliseconds"),
        reason=entry.reason,
        note=entry.note,
    )
