"""Says which entries of the outbox are sent next: in order for each instance, verdicts first.

Runs inside a transaction of the store's worker, as :mod:`hbtrio.store.outbox` does.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import history
from hbtrio.store.daemon_store import PAGE
from hbtrio.store.outbox import BY_CLOCK, BY_WALL_CLOCK, COLUMNS, TOO_LATE, end, entry_of
from hbtrio.store.records import Entry, Ready
from hbtrio.store.sql import Connection, records, rows

#: After this many failed attempts while the VIM can be reached, a state or alarm lets later entries
#: pass, because the fault may be the entry's. With the delivery's delays that takes 15 s if the VIM
#: answers at once; up to then, an instance's order is kept.
TRIES: Final = 4

# The rank of an entry that keeps failing: more failures come later.
_LATE: Final = (
    f"CASE WHEN {{0}}.failures > {TRIES - 1} THEN {{0}}.failures - {TRIES - 1} ELSE 0 END"
)

# Usually the oldest entry of an instance is next, with these exceptions. A state or alarm that
# keeps failing lets later entries pass. A verdict passes states and alarms that have failed, and
# all of them while its instance rests (one has failed or hangs) or while there is no slot for them.
# A verdict waits until the reply to the requester is written, which may never happen if the agent
# was killed or the link was cut.
_READY: Final = f"""
    SELECT {COLUMNS} FROM outbox AS mine
    WHERE state = 'queued'
      AND uuid NOT IN (SELECT value FROM json_each(:busy))
      AND (kind = 'action' OR uuid NOT IN (SELECT value FROM json_each(:resting)))
      AND NOT EXISTS (
          SELECT 1 FROM outbox AS other
          WHERE other.uuid = mine.uuid AND other.id < mine.id
            AND other.done_at IS NULL AND other.state <> 'held'
            AND CASE
                WHEN other.kind = 'action' THEN true
                WHEN mine.kind = 'action' THEN other.attempts = 0 AND :others > 0
                    AND mine.uuid NOT IN (SELECT value FROM json_each(:resting))
                ELSE {_LATE.format("other")} <= {_LATE.format("mine")}
            END
            AND NOT EXISTS (
                SELECT 1 FROM rounds WHERE rounds.command_id = other.command_id AND replied = 0
            )
      )
      AND (kind = 'action' OR failures < {TRIES} OR NOT EXISTS (
          SELECT 1 FROM outbox AS other
          WHERE other.uuid = mine.uuid AND other.id > mine.id
            AND other.done_at IS NULL AND other.state <> 'held' AND other.kind <> 'action'
            AND {_LATE.format("other")} < {_LATE.format("mine")}
      ))
      AND NOT EXISTS (
          SELECT 1 FROM rounds WHERE rounds.command_id = mine.command_id AND replied = 0
      )
    ORDER BY place, attempts, queued_at, id
    LIMIT :limit
"""

# When the next entries expire by either clock, how many wait, and the newest record of the history.
# In one statement: to ask a database on another machine takes longer than it needs to answer. Both
# counts read an index alone. One of all open entries would read each of them, and with the states
# of 30,000 instances in the queue a look took 40 ms.
_QUEUE: Final = f"""
    SELECT
        (SELECT min(deadline) FROM outbox WHERE {BY_CLOCK} IS NOT NULL),
        (SELECT min(expires_at) FROM outbox WHERE {BY_WALL_CLOCK} IS NOT NULL),
        (SELECT count(*) FROM outbox WHERE state = 'queued')
            + (
                SELECT count(*) FROM outbox
                WHERE done_at IS NULL AND state = 'sending'
                    AND uuid IN (SELECT value FROM json_each(?))
            ),
        (SELECT coalesce(max(id), 0) FROM history)
"""


def ready(
    db: Connection,
    limit: int,
    others: int,
    busy: Collection[str],
    resting: Collection[str],
    after: int | None,
    now: float,
    clock: float,
) -> Ready:
    """Expires entries, then returns those that can be sent now and those undelivered.

    Args:
        db: the connection.
        limit: the most entries to return; 0 only expires entries.
        others: the most of them that are not verdicts.
        busy: instances whose entries are left out.
        resting: instances of which only verdicts are returned, which wait for no state or alarm.
        after: the newest record of the history at the last call; None is now.
        now: the wall clock.
        clock: trio's clock.
    """
    under_way = json.dumps(sorted({*busy, *resting}))
    [(deadline, expiry, waiting, newest)] = rows(db, _QUEUE, under_way)
    since = newest if after is None else after
    if _is_over(deadline, clock) or _is_over(expiry, now):
        for where, edge in ((BY_CLOCK, clock), (BY_WALL_CLOCK, now)):
            end(db, f"{where} <= ?", (edge,), OutboxState.UNDELIVERED, TOO_LATE, now)
        [(deadline, expiry, waiting, newest)] = rows(db, _QUEUE, under_way)
    names = {"busy": json.dumps(sorted(busy)), "resting": json.dumps(sorted(resting))}
    first: dict[str, Entry] = {}
    # Twice the limit, because an instance may have two rows: a verdict and the entry that it
    # passes. Verdicts come first, so entries without a slot don't displace them.
    found = db.execute(_READY, names | {"limit": 2 * limit, "others": others}).fetchall()
    for entry in records(entry_of, found):
        if entry.uuid not in first and (entry.kind is OutboxKind.ACTION or others > 0):
            others -= entry.kind is not OutboxKind.ACTION
            first[entry.uuid] = entry
    lefts = [] if deadline is None else [deadline - clock]
    lefts += [] if expiry is None else [expiry - now]
    newest, undelivered = history.newly_undelivered(db, since, newest, PAGE)
    return Ready(
        tuple(first.values())[:limit], waiting, min(lefts, default=None), undelivered, newest
    )


def _is_over(edge: float | None, time: float) -> bool:
    return edge is not None and edge <= time
