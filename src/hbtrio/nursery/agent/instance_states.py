"""Notifies the VIM of the instances' states.

The VIM is notified when an instance starts or stops heartbeating, and of each loss and ill health
while both the host's and the instance's reporting are on. An alarm is sent before the change that
comes with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.slices import slices
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.records import InstanceRecord, NewEntry
from hbtrio.store.store import Store
from hbtrio.wire.link_messages import Instance, LinkReport
from hbtrio.wire.vim import AlarmEvent, AlarmState, ServiceEvent, Switch
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.agent")

#: The VIM goes on without an answer after 45 s; a longer VOTE than this is warned of.
_VOTE_WARNING_S: Final = 40

#: For how long ill health is not sent after a moved instance is heartbeating again, in seconds. A
#: guest whose ill health lasts requests its action again after 60 s.
SETTLES_S: Final = 50.0

#: The kinds of reports that raise an alarm.
ALARMS: Final = {"loss": AlarmState.FAILED, "unhealthy": AlarmState.UNHEALTHY}


class InstanceStates:
    """Tracks which states the VIM knows, and queues those that it does not know.

    Args:
        fleet: the present states.
        store: keeps the outbox.
        outbox: woken when an entry was queued; without a VIM nothing is queued.
    """

    def __init__(self, fleet: Fleet, store: Store, outbox: WakeUp) -> None:
        self._fleet = fleet
        self._store = store
        self._outbox = outbox
        #: Held while a slice of many states is being stored.
        self._in_slices = trio.StrictFIFOLock()
        #: The last state of each instance that was sent or is queued; unknown if missing.
        self._sent: dict[str, ServiceEvent] = {}
        #: The newest state of each instance passed to the store, of several at once.
        self._newest: dict[str, ServiceEvent] = {}
        #: Instances whose state is not sent for now, see :mod:`hbtrio.nursery.agent.vim_steps`.
        self.withheld: set[str] = set()
        #: Until when the ill health of moved instances is not sent; infinity: not heartbeating yet.
        self._settled_at: dict[str, float] = {}
        #: Instances with a state whose delivery was given up.
        self._owed: set[str] = set()

    def service(self, bound: InstanceRecord) -> ServiceEvent:
        """Makes the service event with an instance's present state."""
        live = self._fleet.live_on(bound.hostname, bound.uuid)
        heartbeating = live is not None and live.heartbeating
        return ServiceEvent(
            uuid=bound.uuid,
            hostname=bound.hostname,
            state=Switch.ENABLED if bound.reporting else Switch.DISABLED,
            status=Switch.ENABLED if heartbeating else Switch.DISABLED,
            restart_timeout_s=live.restart_s if live is not None and heartbeating else 0,
        )

    def alarm(self, bound: InstanceRecord, report: LinkReport, *, held: bool) -> list[NewEntry]:
        """Makes the alarm that a report raises, if any; ``held``: it waits for its release.

        Ill health between a ``proceed`` and the VIM's own step belongs to the event, and so does
        that of an instance that has just moved: the VIM would repair what it is acting on.
        """
        state = ALARMS.get(report.kind)
        if state is None or (state is AlarmState.UNHEALTHY and self._is_in_event(bound.uuid)):
            return []
        action = report.corrective_action or CorrectiveAction.NONE
        body = AlarmEvent(bound.uuid, bound.hostname, state, action).body()
        return [NewEntry(OutboxKind.ALARM, bound.uuid, body, hostname=bound.hostname, held=held)]

    def _is_in_event(self, uuid: str) -> bool:
        settled_at = self._settled_at.get(uuid, -math.inf)
        return uuid in self.withheld or trio.current_time() < settled_at

    def moved(self, bound: InstanceRecord) -> None:
        """Notes that an instance is on another host, which knows nothing of the VIM's event."""
        self._settled_at[bound.uuid] = math.inf
        live = self._fleet.live_on(bound.hostname, bound.uuid)
        if live is not None and live.heartbeating:
            self.heartbeating(bound.uuid)

    def heartbeating(self, uuid: str) -> None:
        """Notes that the host of an instance has reported that it is heartbeating."""
        if self._settled_at.get(uuid) == math.inf:
            self._settled_at[uuid] = trio.current_time() + SETTLES_S

    def changes(self, services: Iterable[ServiceEvent]) -> list[NewEntry]:
        """Returns entries for the states that the VIM does not know.

        The reporting state does not count, as it comes from the VIM. The VIM's knowledge of the
        returned states is unknown until :meth:`notified` is called: a cancelled caller may have
        stored them all the same.
        """
        changed = [
            now
            for now in services
            if now.uuid not in self.withheld
            and (
                (sent := self._sent.get(now.uuid)) is None
                or (sent.hostname, sent.status, sent.restart_timeout_s)
                != (now.hostname, now.status, now.restart_timeout_s)
            )
        ]
        for now in changed:
            self._sent.pop(now.uuid, None)
            self._newest[now.uuid] = now
        return [NewEntry(OutboxKind.SERVICE, now.uuid, now.body()) for now in changed]

    def notified(self, services: Iterable[ServiceEvent]) -> None:
        """Notes states that are in the store, or known to the VIM anyway."""
        # Concurrent callers may return from the store in any order.
        newest = [
            now
            for now in services
            if self._newest.get(now.uuid, now) == now and now.uuid not in self.withheld
        ]
        self._sent |= {now.uuid: now for now in newest}
        self._owed -= {now.uuid for now in newest}

    def given_up(self, uuid: str, *, for_good: bool) -> None:
        """Notes that a delivery was given up, so that the VIM is notified again later.

        That happens at the next change, at the host's next snapshot, or in :meth:`notify_again`
        unless the VIM has refused the state for good (``for_good``).
        """
        if self._sent.pop(uuid, None) is not None and not for_good:
            self._owed.add(uuid)

    def forget(self, bound: InstanceRecord) -> None:
        """Forgets an instance that the VIM has deleted."""
        self._sent.pop(bound.uuid, None)
        self._newest.pop(bound.uuid, None)
        self._owed.discard(bound.uuid)
        self.withheld.discard(bound.uuid)
        self._settled_at.pop(bound.uuid, None)

    async def notify_again(self, bound: InstanceRecord) -> None:
        """Notifies the VIM again of a listed instance whose delivery was given up, if any.

        Raises:
            StoreFault: the store failed; nothing was queued.
        """
        if bound.uuid in self._owed:
            await self.notify([bound])

    async def notify(self, bound: Sequence[InstanceRecord]) -> None:
        """Queues the states of these instances that the VIM does not know.

        Those of many instances are queued in slices, one after the other, so that the store serves
        votes between them.

        Raises:
            StoreFault: the store failed; the rest was not queued.
        """
        if len(bound) <= 1:
            await self._notify(bound)
            return
        for part in slices(bound):
            async with self._in_slices:
                # The VIM may have moved or deleted some since.
                now = [one for one in part if self._fleet.instances.get(one.uuid) == one]
                await self._notify(now)

    async def _notify(self, bound: Iterable[InstanceRecord]) -> None:
        services = [self.service(one) for one in bound]
        entries = self.changes(services)
        if not entries or not self._fleet.has_vim:
            return
        try:
            await self._store.queue(entries)
        finally:
            # Even if cancelled: the store may have taken the entries.
            self._outbox.set()
        self.notified(services)


def warn_of_vote(reported: Instance, before: Instance | None = None) -> None:
    """Logs a warning for a VOTE that is longer than the VIM waits, unless it was before.

    Args:
        reported: the report of the host that the instance is bound to.
        before: the host's report before that, or None.
    """
    if reported.vote_s > _VOTE_WARNING_S >= (0 if before is None else before.vote_s):
        text = "%s advertises a VOTE of %d s; the VIM decides without it after 45 s"
        _log.warning(text, reported.uuid, reported.vote_s)
