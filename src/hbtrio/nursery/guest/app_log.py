"""Bounds the log lines that applications can cause in the guest, per minute.

Each connection has bounds of its own, and a new connection starts with fresh ones. So there is also
a bound for all connections together, per topic: an application that reconnects a thousand times a
second must not hide which application requested a reboot. Nor must it hide another one that
misbehaves: beyond that bound, each process that had no line of the topic for a minute has one.
Lines beyond all bounds are counted, and the count is logged.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from enum import Enum
from typing import Final, NoReturn

import msgspec
import trio

from hbtrio.fsm.application import MIN_INTERVAL_MS, ApplicationSession
from hbtrio.fsm.application_table import ApplicationEvent, ApplicationState
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.profile import Profile
from hbtrio.policy.quota import Quota

_log = logging.getLogger("hbtrio.guest")

#: The period of all bounds, in seconds.
PERIOD_S: Final = 60.0


class Topic(Enum):
    """The subject of a log line."""

    REGISTRATION = "registrations and disconnects"
    HEALTH = "health changes"
    MISUSE = "ignored messages and closed connections"
    REFUSED = "connections refused"
    ERROR = "internal errors"


#: Lines of one connection per period: state changes, and misuse.
CHANGES: Final = 20
MISUSES: Final = 5

#: Lines per topic and period, of all connections together.
LINES: Final = {
    Topic.REGISTRATION: 120,
    Topic.HEALTH: 60,
    Topic.MISUSE: 30,
    Topic.REFUSED: 5,
    Topic.ERROR: 5,
}


#: Lines per topic and period besides, for processes that had none of the topic for a period.
RARE: Final = 60

#: Connections of one process per period that may end without a registration and without a line.
VISITS: Final = 10

#: Processes whose connections are counted; beyond it the one longest without one is forgotten.
PROCESSES: Final = 1024


class _Visitor(msgspec.Struct):
    """The connections of a process that ended without a registration."""

    visits: Quota = msgspec.field(default_factory=lambda: Quota(VISITS, PERIOD_S))
    logged_at: float = -math.inf


class AppLog:
    """Logs lines about all applications of a guest, within the bounds."""

    def __init__(self) -> None:
        self._quotas = {topic: Quota(count, PERIOD_S) for topic, count in LINES.items()}
        self._rare = {topic: Quota(RARE, PERIOD_S) for topic in Topic}
        #: When each process had its last line of a topic, in the last period. The quotas bound it.
        self._logged: OrderedDict[tuple[Topic, str], float] = OrderedDict()
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self._withheld = 0
        self._any_withheld = WakeUp()

    def log(
        self,
        topic: Topic,
        level: int,
        text: str,
        *args: object,
        process: str = "",
        own: Quota | None = None,
        traceback: bool = False,
    ) -> None:
        """Logs a line, or counts it if a bound is reached.

        Args:
            topic: the subject of the line.
            level: a level of :mod:`logging`.
            text: with ``args``, as for :mod:`logging`.
            process: whom the line is about; "" for all applications.
            own: the narrower bound of one connection.
            traceback: whether to add the traceback of the exception being handled.
        """
        now = trio.current_time()
        if (own is None or own.take(now)) and self._may_log(topic, process, now):
            _log.log(level, text, *args, exc_info=traceback)
        else:
            self._withheld += 1
            self._any_withheld.set()

    def _may_log(self, topic: Topic, process: str, now: float) -> bool:
        while self._logged and now - next(iter(self._logged.values())) >= PERIOD_S:
            self._logged.popitem(last=False)
        key = (topic, process)
        rare = bool(process) and key not in self._logged
        if not self._quotas[topic].take(now) and not (rare and self._rare[topic].take(now)):
            return False
        self._logged[key] = now
        self._logged.move_to_end(key)
        return True

    def visited(self, process: str) -> None:
        """Counts a connection that ended without a registration.

        A process with more than :data:`VISITS` in a period has a line, once a period.
        """
        now = trio.current_time()
        visitor = self._visitors.pop(process, None) or _Visitor()
        self._visitors[process] = visitor
        if len(self._visitors) > PROCESSES:
            self._visitors.popitem(last=False)
        if not visitor.visits.take(now) and now - visitor.logged_at >= PERIOD_S:
            visitor.logged_at = now
            text = "application (%s): more than %d connections without a registration within %g s"
            self.log(
                Topic.MISUSE, logging.WARNING, text, process, VISITS, PERIOD_S, process=process
            )

    async def run(self) -> NoReturn:
        """Logs how many lines were withheld, once per period and when cancelled."""
        try:
            while True:
                while not self._withheld:
                    await self._any_withheld.wait()
                await trio.sleep(PERIOD_S)
                self._log_withheld()
        finally:
            self._log_withheld()

    def _log_withheld(self) -> None:
        if self._withheld:
            _log.warning("%d more lines about applications not shown", self._withheld)
            self._withheld = 0


#: Events about an application's health; all others are about its registration.
_HEALTH_EVENTS: Final = frozenset(
    {
        ApplicationEvent.ANSWERED_HEALTHY,
        ApplicationEvent.ANSWERED_ILL,
        ApplicationEvent.TIMED_OUT,
    }
)


class ConnectionLog:
    """Logs lines about one connection, within bounds of its own.

    Args:
        log: the log of all applications.
        peer: the process at the other end.
        application: its state and profile are logged.
    """

    def __init__(self, log: AppLog, peer: str, application: ApplicationSession) -> None:
        self._log = log
        self._peer = peer
        self._application = application
        self._changes = Quota(CHANGES, PERIOD_S)
        self._misuses = Quota(MISUSES, PERIOD_S)
        #: Whether it has ever registered.
        self._registered = False

    @property
    def label(self) -> str:
        """The application's name, if known, and its process."""
        name = self._application.profile.name
        return f"application {name} ({self._peer})" if name else f"application ({self._peer})"

    def changed(
        self, old: ApplicationState, new: ApplicationState, event: ApplicationEvent
    ) -> None:
        """Logs a state change."""
        if new is ApplicationState.GONE and old is ApplicationState.UNREGISTERED:
            if not self._registered:
                self._log.visited(self._peer)
            return
        self._registered = True
        match event:
            case ApplicationEvent.INIT_ACCEPTED:
                what = self._registration
            case ApplicationEvent.INIT_REFUSED:
                what = f": {self._refusal}"
            case _:
                what = self._illness
        self._log_change(
            Topic.HEALTH if event in _HEALTH_EVENTS else Topic.REGISTRATION,
            f"state change from {old.value} to {new.value}, event={event.value}{what}",
        )

    def still_ill(self) -> None:
        """Logs another reason or action of an application that stays ill."""
        self._log_change(Topic.HEALTH, f"still ill{self._illness}")

    def re_registered(self, old: Profile) -> None:
        """Logs a new registration of a registered application."""
        self._log_change(
            Topic.REGISTRATION, f'registered again, was "{old.name}"{self._registration}'
        )

    def inhibits(self) -> None:
        """Logs which events the application rejects from now on."""
        held = self._application.inhibition
        events = "nothing" if held is None else ", ".join(sorted(held.events))
        reason = "" if held is None else f": {held.reason}"
        self._log_change(Topic.REGISTRATION, f"inhibits {events}{reason}")

    def refused(self) -> None:
        """Logs a registration that is refused."""
        self.misuse(f"registration refused: {self._refusal}")

    def misuse(self, text: str) -> None:
        """Logs a message or bytes that were ignored."""
        self._log_misuse(text, self._misuses)

    def closed(self, reason: str) -> None:
        """Logs that the guest closes the connection."""
        self._log_misuse(f"connection closed: {reason}")

    def _log_misuse(self, text: str, own: Quota | None = None) -> None:
        level, process = logging.WARNING, self._peer
        self._log.log(Topic.MISUSE, level, "%s: %s", self.label, text, process=process, own=own)

    @property
    def _registration(self) -> str:
        profile = self._application.profile
        return f", interval {profile.interval_s:g} s, {profile.corrective_action} if it hangs"

    @property
    def _refusal(self) -> str:
        interval_s = self._application.profile.interval_s
        return f"its interval of {interval_s:g} s is below {MIN_INTERVAL_MS / 1000:g} s"

    @property
    def _illness(self) -> str:
        health = self._application.health
        return "" if health.healthy else f", {health.action}: {health.reason}"

    def _log_change(self, topic: Topic, text: str) -> None:
        level = logging.INFO if self._application.health.healthy else logging.WARNING
        self._log.log(
            topic, level, "%s: %s", self.label, text, process=self._peer, own=self._changes
        )
