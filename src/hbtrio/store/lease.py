"""How long an agent may act on a database that another one may take over.

An agent has a row in the database with its epoch and the end of its lease, see
:mod:`hbtrio.store.postgres_agents`. Each commit that has changed something checks that row in the
same message: whoever takes over changes the epoch, and from then on nothing of the old agent's is
committed. What an agent sends to others can't be checked there. So it counts its lease by its own
clock, from before it asked for it and less a margin, and does nothing once that is over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final

from hbtrio.store.faults import StoreFenced, StoreLost

#: For how long a lease is given, in seconds.
LEASE_S: Final = 3.0

#: How much earlier it is over for the agent itself, in seconds: what it has begun to send then may
#: take that long.
MARGIN_S: Final = 0.5

#: Seconds between two renewals.
RENEW_S: Final = 1.0

_OVER: Final = "the lease of the database could not be renewed in time"


class Lease:
    """A lease as its agent counts it; used by any thread.

    Args:
        clock: CLOCK_BOOTTIME, which goes on while the process is stopped or the machine sleeps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        #: Called once, in the thread that renews, when the lease is lost.
        self.on_lost: Callable[[], object] = _nothing
        #: The epoch for which it was given; None: it was not yet.
        self.epoch: int | None = None
        self._clock = clock
        self._until = -math.inf
        self._fault: StoreLost | None = None

    def now(self) -> float:
        """Returns the time by its clock, to be read before a renewal is asked for."""
        return self._clock()

    def renewed(self, asked_at: float) -> None:
        """Counts the lease from when it was asked for: the database may have begun it then."""
        self._until = asked_at + LEASE_S - MARGIN_S

    def lost(self, fault: StoreLost) -> None:
        """Ends it for good."""
        self._fault = fault
        self.on_lost()

    def fault(self) -> StoreLost | None:
        """Returns why the agent may not act; None if it may."""
        if self._fault is None and self._clock() >= self._until:
            self._fault = StoreFenced(_OVER)
        return self._fault


class LeaseKeeper:
    """A thread that renews a lease until it is ended or a renewal fails.

    It is no task: a stall of trio's loop, as at the start with many instances, is no reason for
    another agent to take over; the service manager's watchdog sees to an agent that hangs.

    Args:
        lease: the lease, which has just been given.
        renew: renews it in the database, and raises StoreLost.
    """

    def __init__(self, lease: Lease, renew: Callable[[], None]) -> None:
        self._lease = lease
        self._renew = renew
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> bool:
        """Ends the thread, after a renewal that is under way if that ends within a second.

        Returns whether it has ended.
        """
        self._ended.set()
        self._thread.join(RENEW_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._ended.wait(RENEW_S):
            if not self.step():
                return

    def step(self) -> bool:
        """Renews the lease once; False if that failed."""
        asked_at = self._lease.now()
        try:
            self._renew()
        except StoreLost as fault:
            self._lease.lost(fault)
            return False
        self._lease.renewed(asked_at)
        return True


def _nothing() -> None:
    pass
