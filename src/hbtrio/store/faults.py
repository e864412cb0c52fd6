"""What the stores raise."""

from __future__ import annotations

from hbtrio.store.recovery import Recovery


class StoreFault(Exception):
    """The database can't be read or written, as on a full disk, or has a damaged row.

    Nothing was changed.
    """

    #: Waits until another attempt is worth it. One of its own for a fault that no store has raised.
    recovery: Recovery

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.recovery = Recovery()


class StoreLost(StoreFault):
    """The connection to the database is lost, and whatever is asked of it from now on fails.

    Whether a transaction that was being committed has been is not known; only a new session, which
    reads everything again, or a new start of the daemon finds out.
    """


class StoreFenced(StoreLost):
    """Another agent has taken over the database, or may take it over at any moment.

    A transaction that raises it was not committed.
    """


class CommandIdUsed(Exception):
    """A round with this command id exists; nothing was changed."""
