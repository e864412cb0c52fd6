"""Bounds the log lines that applications can cause in the guest, per minute.

Each connection has bounds of its own, and a new connection starts with fresh ones. So there is also
a bound for all connections together, per topic: an application that reconnects a thousand times a
second must not hide which application requested a reboot. Lines beyond a bound are counted, and the
count is logged.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final, NoReturn

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


class AppLog:
    """Logs lines about all applications of a guest, within the bounds."""

    def __init__(self) -> None:
        self._quotas = {topic: Quota(count, PERIOD_S) for topic, count in LINES.items()}
        self._withheld = 0
        self._any_withheld = WakeUp()

    def log(
        self,
        topic: Topic,
        level: int,
        text: str,
        *args: object,
        own: Quota | None = None,
        traceback: bool = False,
    ) -> None:
        """Logs a line, or counts it if a bound is reached.

        Args:
            topic: the subject of the line.
            level: a level of :mod:`logging`.
            text: with ``args``, as for :mod:`logging`.
            own: the narrower bound of one connection.
            traceback: whether to add the traceback of the exception being handled.
        """
        now = trio.current_time()
        if (own is None or own.take(now)) and self._quotas[topic].take(now):
            _log.log(level, text, *args, exc_info=traceback)
        else:
            self._withheld += 1
            self._any_withheld.set()

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
            return  # it never registered, or has unregistered before
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

    def refused(self) -> None:
        """Logs a registration that is refused."""
        self.misuse(f"registration refused: {self._refusal}")

    def misuse(self, text: str) -> None:
        """Logs a message or bytes that were ignored."""
        self._log.log(Topic.MISUSE, logging.WARNING, "%s: %s", self.label, text, own=self._misuses)

    def closed(self, reason: str) -> None:
        """Logs that the guest closes the connection."""
        self._log.log(
            Topic.MISUSE, logging.WARNING, "%s: connection closed: %s", self.label, reason
        )

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
        self._log.log(topic, level, "%s: %s", self.label, text, own=self._changes)
