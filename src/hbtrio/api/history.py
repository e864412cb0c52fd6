"""Answers requests for a page of a daemon's history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from hbtrio.api import common as api_parts
from hbtrio.store.daemon_store import PAGE
from hbtrio.store.records import HistoryEntry, HistoryRecord
from hbtrio.wire.operator import FleetEventLine, History

#: History entries by default.
LIMIT: Final = 100

#: The largest id of a history entry that JSON carries exactly everywhere.
LAST_ID: Final = 10**15 - 1

#: Reads records: the most, only those before an id, only those of an instance.
Read = Callable[[int, int, str | None], Awaitable[tuple[HistoryRecord, ...]]]


async def history_page(request: Request, read: Read) -> Response:
    """The page that a request asks for.

    Args:
        request: the request, with ``limit``, ``before`` and ``uuid`` in its query.
        read: reads the history, the newest first.
    """
    limit = api_parts.number(request, "limit", LIMIT, PAGE)
    before = api_parts.number(request, "before", LAST_ID, LAST_ID)
    uuid = request.query_params.get("uuid")
    found = await read(limit, before, None if uuid is None else uuid.lower())
    return api_parts.answer(
        History(
            history=tuple(history_line(one.entry, one.id) for one in found),
            # Where the next page begins; none behind a page that is not full.
            before=found[-1].id if found and len(found) == limit else None,
        )
    )


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
