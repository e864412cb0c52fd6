"""The agents of a database: who they are, their epochs and leases.

An agent that starts takes the next epoch of its name, so that of two with one name the older one is
fenced. An agent whose lease is over is fenced by whoever starts next. Times are by the clock of the
database.
"""

from __future__ import annotations

from typing import Final

import psycopg.sql

from hbtrio import __version__
from hbtrio.store.faults import StoreFenced
from hbtrio.store.lease import LEASE_S
from hbtrio.store.sql import Connection, changed, rows

#: The SQLSTATE of a commit that is refused, see the schema's ``fence_1``.
FENCED: Final = "HB001"

_LEASE: Final = "clock_timestamp() + make_interval(secs => ?)"


class DatabaseInUseError(Exception):
    """Another agent has a lease of the database."""


def enter(db: Connection, agent: str, after: int | None = None) -> int:
    """Gives an agent a lease and fences all others that have none any more; returns its epoch.

    Args:
        db: the database.
        agent: the agent's name.
        after: the epoch of its last session, which it has lost; None: it had none.

    Raises:
        DatabaseInUseError: nothing was changed.
        StoreFenced: another agent has worked on the database since; nothing was changed.
    """
    db.execute("BEGIN")
    try:
        own = rows(db, "SELECT epoch FROM agents WHERE name = ? FOR UPDATE", agent)
        # A failover may have lost the last epochs.
        if after is not None and own and own[0][0] > after:
            raise StoreFenced("another agent has taken over")
        others = rows(
            db,
            "SELECT name, lease_until > clock_timestamp() FROM agents WHERE name <> ?"
            " ORDER BY name FOR UPDATE",
            agent,
        )
        if alive := [name for name, is_alive in others if is_alive]:
            raise DatabaseInUseError(f"agent {', '.join(alive)} has it open")
        db.execute(
            "UPDATE agents SET epoch = epoch + 1, lease_until = '-infinity' WHERE name <> ?",
            (agent,),
        )
        [(epoch,)] = rows(
            db,
            f"INSERT INTO agents (name, epoch, lease_until, version) VALUES (?, 1, {_LEASE}, ?)"
            " ON CONFLICT (name) DO UPDATE SET epoch = agents.epoch + 1,"
            " lease_until = excluded.lease_until, version = excluded.version RETURNING epoch",
            agent,
            LEASE_S,
            __version__,
        )
        db.commit()
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise
    return int(epoch)


def renew(db: Connection, agent: str, epoch: int) -> bool:
    """Renews a lease; False if the agent is fenced."""
    text = f"UPDATE agents SET lease_until = {_LEASE} WHERE name = ? AND epoch = ?"
    return changed(db, text, LEASE_S, agent, epoch) == 1


def leave(db: Connection, agent: str, epoch: int) -> None:
    """Ends a lease, so that the next agent need not wait for its end."""
    text = "UPDATE agents SET lease_until = '-infinity' WHERE name = ? AND epoch = ?"
    db.execute(text, (agent, epoch))


def fenced_commit(agent: str, epoch: int) -> str:
    """Returns the statements, for one message, that commit if the agent is not fenced.

    One message, so that nothing can come between the check and the commit: neither a stop of the
    agent nor a takeover, which waits for the lock that the check has taken.
    """
    name = psycopg.sql.Literal(agent).as_string(None)
    return f"SELECT fence_1({name}, {epoch}); COMMIT"
