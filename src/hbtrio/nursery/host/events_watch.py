"""Opens the events file anew after it was deleted or replaced without a SIGHUP.

A log rotation moves the file away, makes a new one and sends SIGHUP. The watch must not come
between, where it would make the new file itself: so it acts only on what two looks have seen.
"""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from hbtrio.nursery.host.events_file import EventsSink

_log = logging.getLogger("hbtrio.events")

#: Seconds between two looks.
LOOK_S: Final = 20.0


async def watch_events_file(events: EventsSink) -> NoReturn:
    """Looks at the file's path until cancelled; events meanwhile go into the old file."""
    seen, logged = "", ""
    while True:
        await trio.sleep(LOOK_S)
        fault = await events.look()
        if fault is None:
            continue
        if not fault:
            logged = ""
        elif fault == seen:
            if fault != logged:
                _log.warning("events: %s was %s; it is opened anew", events.target, fault)
                logged = fault
            await events.reopen()
        seen = fault
