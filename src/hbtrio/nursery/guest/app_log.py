"""What applications may cause in the guest's log: so many lines a minute, however they come about.

A connection has bounds of its own, and whoever connects again begins with them anew. So there is
one more for all connections together, apart for each topic: whoever comes and goes a thousand times
a second must not hide which application has asked for a reboot. Lines beyond a bound are counted,
and how many they were is a line of its own.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final, NoReturn

import trio

from hbtrio.fsm.application import ApplicationEvent, ApplicationSession, ApplicationState
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.profile import Profile
from hbtrio.policy.quota import Quota

_log = logging.getLogger("hbtrio.guest")

#: The time that all the bounds are about, in seconds.
PERIOD_S: Final = 60.0


class Topic(Enum):
    """What a line is about."""

    REGISTRATION = "who comes, signs off and goes"
    HEALTH = "who is ill, silent or well again"
    SLIP = "what was ignored, and why a connection was closed"
    ROOM = "nobody can be let in"
    ERROR = "a fault of this program"


#: Lines of one connection in each period: of its changes, and of its slips.
CHANGES: Final = 20
SLIPS: Final = 5

#: Lines about a topic in each period, of all connections together.
LINES: Final = {
    Topic.REGISTRATION: 120,
    Topic.HEALTH: 60,
    Topic.SLIP: 30,
    Topic.ROOM: 5,
    Topic.ERROR: 5,
}


class AppLog:
    """The log of all applications of a guest."""

    def __init__(self) -> None:
        self._quotas = {topic: Quota(count, PERIOD_S) for topic, count in LINES.items()}
        self._withheld = 0
        self._any_withheld = WakeUp()

    def say(
        self,
        topic: Topic,
        level: int,
        text: str,
        *args: object,
        own: Quota | None = None,
        traceback: bool = False,
    ) -> None:
        """Logs a line, or counts it if there have been enough.

        Args:
            topic: what it is about.
            level: of :mod:`logging`.
            text: with ``args``, as for :mod:`logging`.
            own: a narrower bound, for whoever causes the line.
            traceback: with that of the exception being handled.
        """
        now = trio.current_time()
        if (own is None or own.take(now)) and self._quotas[topic].take(now):
            _log.log(level, text, *args, exc_info=traceback)
        else:
            self._withheld += 1
            self._any_withheld.set()

    async def run(self) -> NoReturn:
        """Says how many lines were withheld, once in a period and when cancelled."""
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


#: What happens to an application's health, not to its registration.
_HEALTH_EVENTS: Final = frozenset(
    {
        ApplicationEvent.ANSWERED_HEALTHY,
        ApplicationEvent.ANSWERED_ILL,
        ApplicationEvent.TIMED_OUT,
    }
)


class ConnectionLog:
    """What one connection has to say there, within bounds of its own.

    Args:
        log: of all of them.
        peer: who is at its other end.
        application: what it is about, as it is when a line is said.
    """

    def __init__(self, log: AppLog, peer: str, application: ApplicationSession) -> None:
        self._log = log
        self._peer = peer
        self._application = application
        self._changes = Quota(CHANGES, PERIOD_S)
        self._slips = Quota(SLIPS, PERIOD_S)

    @property
    def label(self) -> str:
        """The application's name and its process."""
        name = self._application.profile.name
        return f"application {name} ({self._peer})" if name else f"application ({self._peer})"

    def changed(
        self, old: ApplicationState, new: ApplicationState, event: ApplicationEvent
    ) -> None:
        """Its state is another."""
        if new is ApplicationState.GONE and old is ApplicationState.UNREGISTERED:
            return  # who came and went, or has signed off before, is no news
        what = self._terms if event is ApplicationEvent.INIT_ACCEPTED else self._illness
        self._say_change(
            Topic.HEALTH if event in _HEALTH_EVENTS else Topic.REGISTRATION,
            f"state change from {old.value} to {new.value}, event={event.value}{what}",
        )

    def still_ill(self) -> None:
        """It is ill as before, and its reason or its action is another."""
        self._say_change(Topic.HEALTH, f"still ill{self._illness}")

    def registered_anew(self, old: Profile) -> None:
        """It is registered as before, with other terms."""
        self._say_change(Topic.REGISTRATION, f'registered anew, was "{old.name}"{self._terms}')

    def slip(self, text: str) -> None:
        """It sent what is of no use."""
        self._log.say(Topic.SLIP, logging.WARNING, "%s: %s", self.label, text, own=self._slips)

    def closed(self, reason: str) -> None:
        """We close it."""
        self._log.say(Topic.SLIP, logging.WARNING, "%s: connection closed: %s", self.label, reason)

    @property
    def _terms(self) -> str:
        profile = self._application.profile
        return f", interval {profile.interval_s:g} s, {profile.corrective_action} if it hangs"

    @property
    def _illness(self) -> str:
        health = self._application.health
        return "" if health.healthy else f", {health.action}: {health.reason}"

    def _say_change(self, topic: Topic, text: str) -> None:
        level = logging.INFO if self._application.health.healthy else logging.WARNING
        self._log.say(topic, level, "%s: %s", self.label, text, own=self._changes)
