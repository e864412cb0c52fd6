"""Tells whoever is on call: sends alerts by a command and a webhook.

    notifier
      withheld        tells what was above the rate, once a minute
      <channel>       one for the command, one for the webhook: sends its alerts in order

:meth:`Notifier.tell` never waits. Each channel has a queue of its own, so that a webhook that hangs
delays no command; an alert that can't be delivered is tried again for a quarter of an hour.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NoReturn, Protocol

import trio

from hbtrio.log import LogOnce
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.alert_gate import AlertGate
from hbtrio.policy.backoff import Backoff
from hbtrio.wire.alert import Alert, Severity, Told, Undelivered

_log = logging.getLogger("hbtrio.notify")

#: Alerts that wait for one channel; beyond it the oldest is dropped: the newest matter most.
QUEUE: Final = 1000

#: For how long an alert is tried, in seconds: an older one is no news.
GIVE_UP_S: Final = 900.0

#: How a delivery ends.
RESULTS: Final = ("delivered", "failed", "dropped")

#: Seconds between two attempts, at first and at most.
_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 60.0


class AlertChannel(Protocol):
    """A way to deliver alerts."""

    @property
    def name(self) -> str:
        """What it is called in logs and metrics."""

    async def send(self, told: Told) -> None:
        """Delivers an alert.

        Raises:
            Undelivered: it was not delivered.

        Cancelled, it may have been delivered.
        """


class Notifier:
    """Sends the alerts of one daemon.

    Args:
        channels: how they are sent; none: they are not.
        per_minute: how many alerts are sent in a minute.
        hostname: the daemon's host.
        wall_clock: the wall clock with its zone.
        new_id: makes the alerts' ids.
    """

    def __init__(
        self,
        channels: Sequence[AlertChannel],
        *,
        per_minute: int,
        hostname: str,
        wall_clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        #: How deliveries ended, by channel and ``delivered``, ``failed`` or ``dropped``.
        self.counts: Counter[tuple[str, str]] = Counter()
        self._senders = [_Sender(channel, self.counts) for channel in channels]
        self._gate = AlertGate(per_minute)
        self._hostname = hostname
        self._wall_clock = wall_clock
        self._new_id = new_id
        self._wakeup = WakeUp()

    @property
    def channels(self) -> list[str]:
        """The names of its channels."""
        return [sender.name for sender in self._senders]

    def tell(self, alert: Alert) -> None:
        """Sends an alert, unless the same one was sent just before or there are too many."""
        if not self._senders:
            return
        if self._gate.admits(alert.kind, alert.key, trio.current_time()):
            self._send(alert)
        else:
            self._wakeup.set()

    def over(self, kinds: Iterable[str], alert: Alert) -> None:
        """Tells that something is over, if one of these kinds was told of the same instance."""
        told = [kind for kind in kinds if self._gate.forget((str(kind), alert.key[1]))]
        if told:
            self._gate.forget(alert.key)
            self.tell(alert)

    async def run(self) -> NoReturn:
        """Sends until cancelled; what waits then is lost."""
        async with trio.open_nursery() as nursery:
            for sender in self._senders:
                nursery.start_soon(sender.run)
            nursery.start_soon(self._tell_withheld)
        raise AssertionError("the tasks run until they are cancelled")

    async def _tell_withheld(self) -> NoReturn:
        while True:
            if math.isinf(self._gate.due):
                await self._wakeup.wait()
                continue
            await trio.sleep_until(self._gate.due)
            withheld = self._gate.withheld()
            text = ", ".join(f"{number} {kind}" for kind, number in withheld.items())
            self._send(
                Alert(
                    kind="withheld",
                    severity=Severity.WARNING,
                    hostname=self._hostname,
                    reason=f"more alerts within a minute, which were not sent: {text}",
                    withheld=withheld,
                )
            )

    def _send(self, alert: Alert) -> None:
        time = self._wall_clock().isoformat(timespec="seconds")
        told = Told(alert, self._new_id(), time)
        for sender in self._senders:
            sender.put(told)


class _Sender:
    """The queue of one channel."""

    def __init__(self, channel: AlertChannel, counts: Counter[tuple[str, str]]) -> None:
        self.name = channel.name
        self._channel = channel
        self._counts = counts
        #: Each with when it was raised, on trio's clock.
        self._queue: deque[tuple[Told, float]] = deque()
        self._wakeup = WakeUp()
        self._fault_log = LogOnce()

    def put(self, told: Told) -> None:
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self._counts[self.name, "dropped"] += 1
            if self._fault_log.is_new("full"):
                _log.error("%s: %d alerts wait, the oldest are dropped", self.name, QUEUE)
        self._queue.append((told, trio.current_time()))
        self._wakeup.set()

    async def run(self) -> NoReturn:
        while True:
            while not self._queue:
                await self._wakeup.wait()
            await self._deliver(*self._queue.popleft())

    async def _deliver(self, told: Told, since: float) -> None:
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            try:
                await self._channel.send(told)
            except Undelivered as fault:
                if self._fault_log.is_new(str(fault)):
                    _log.error("%s: an alert was not delivered: %s", self.name, fault)
                delay_s = backoff.next_delay_s()
                late = trio.current_time() + delay_s - since > GIVE_UP_S
                if fault.is_final or late:
                    self._counts[self.name, "failed"] += 1
                    _log.error("%s: given up: %s %s", self.name, told.alert.kind, told.alert.uuid)
                    return
                await trio.sleep(delay_s)
            else:
                self._counts[self.name, "delivered"] += 1
                if self._fault_log.clear():
                    _log.info("%s: alerts are delivered again", self.name)
                return
