"""Watches for an overload of the host: sheds what can wait, and raises and ends the alarm.

Heartbeats are never shed. Status is answered seldom, and log lines below level warning are dropped
and counted. A host that is late for ever still reports losses: silence is counted in challenges
that were sent and listened for while the process ran, see :mod:`hbtrio.fsm.heartbeat.machine`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final, NoReturn

import trio

from hbtrio.nursery.broadcast import Broadcast
from hbtrio.policy.overload import ALARM_S, Overload, OverloadChange
from hbtrio.policy.time_guard import OnTimeGuard

_log = logging.getLogger("hbtrio.host")

#: Seconds between two looks at the on-time guard, and while there has been no lateness: a look that
#: finds the process late counts the time since the last one.
_LOOK_S: Final = 0.5
_CALM_LOOK_S: Final = 2.0

#: Seconds between two full status replies while work is shed: each costs 20 us for each instance.
STATUS_S: Final = 10.0


class OverloadWatch:
    """Watches one host.

    Args:
        guard: the process's on-time guard.
        shed_log: drops log lines below level warning (True), or logs them again.
        wall_clock: the wall clock with its zone.
    """

    def __init__(
        self,
        guard: OnTimeGuard,
        shed_log: Callable[[bool], None],
        wall_clock: Callable[[], datetime],
    ) -> None:
        #: When work began to be shed; None while none is.
        self.since: datetime | None = None
        #: Publishes each change once it is made.
        self.changes: Broadcast[OverloadChange] = Broadcast()
        self._guard = guard
        self._shed_log = shed_log
        self._wall_clock = wall_clock
        self._overload = Overload(trio.current_time())
        self._began = 0.0
        self._status_at = 0.0

    @property
    def alarm(self) -> bool:
        """Whether the alarm is on."""
        return self._overload.alarm

    @property
    def alarms(self) -> int:
        """How many alarms there were."""
        return self._overload.alarms

    def status_wait_s(self) -> float:
        """Asks for a full status reply.

        Returns:
            0 if it may be made now; else after how many seconds to ask again.
        """
        now = trio.current_time()
        if not self._overload.sheds:
            return 0.0
        if now < self._status_at:
            return self._status_at - now
        self._status_at = now + STATUS_S
        return 0.0

    async def run(self) -> NoReturn:
        """Watches until cancelled."""
        while True:
            await trio.sleep(_CALM_LOOK_S if self._overload.calm else _LOOK_S)
            now = trio.current_time()
            change = self._overload.observe(now, late=self._guard.is_late(now))
            if change is not None:
                self._changed(change, now)
                self.changes.publish(change)

    def _changed(self, change: OverloadChange, now: float) -> None:
        if change is OverloadChange.OVER:
            self.since = None
            self._shed_log(False)
            _log.warning("overload: on time again, after %.0f s", now - self._began)
            return
        if self.since is None:
            self.since, self._began, self._status_at = self._wall_clock(), now, now
            self._shed_log(True)
        if change is OverloadChange.ALARM:
            _log.critical(
                "ALARM: overload: this daemon has not been on time for %g s; heartbeats and losses "
                "come late, status is answered every %g s, lines below level warning are dropped",
                ALARM_S,
                STATUS_S,
            )
        else:
            _log.warning("overload: this daemon is late; only what heartbeats need is done")
