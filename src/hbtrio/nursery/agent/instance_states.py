"""What instances are doing, as far as the VIM is notified of it.

Of an instance's heartbeating the VIM hears when it changes, and of its loss and ill health each
time, while both the host's and the instance's reporting are on. An alarm goes before the change
that comes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.records import InstanceRecord, NewEntry
from hbtrio.store.store import Store
from hbtrio.wire.link_messages import Instance, LinkReport
from hbtrio.wire.vim import AlarmEvent, AlarmState, ServiceEvent, Switch
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.agent")

#: The VIM accepts a request by itself after 45 s.
_VOTE_WARNING_S: Final = 40

#: The kinds of reports that call for an alarm.
ALARMS: Final = {"loss": AlarmState.FAILED, "unhealthy": AlarmState.UNHEALTHY}


class InstanceStates:
    """What the VIM knows of the instances' heartbeating, and what it is yet to be notified of.

    Args:
        fleet: what instances are doing.
        store: keeps what is to be sent.
        outbox: woken when something was queued; without a VIM nothing is.
    """

    def __init__(self, fleet: Fleet, store: Store, outbox: WakeUp) -> None:
        self._fleet = fleet
        self._store = store
        self._outbox = outbox
        #: What was sent to the VIM last, or is about to be; of those left out nobody knows.
        self._sent: dict[str, ServiceEvent] = {}
        #: The newest that was taken to be stored, of several under way at once.
        self._newest: dict[str, ServiceEvent] = {}
        #: Those of which it was notified in vain, for so long that the delivery was given up.
        self._owed: set[str] = set()

    def service(self, bound: InstanceRecord) -> ServiceEvent:
        """How an instance stands now."""
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
        """The alarm that a report calls for, if it does; ``held`` until it is let go."""
        state = ALARMS.get(report.kind)
        if state is None:
            return []
        action = report.corrective_action or CorrectiveAction.NONE
        body = AlarmEvent(bound.uuid, bound.hostname, state, action).body()
        return [NewEntry(OutboxKind.ALARM, bound.uuid, body, hostname=bound.hostname, held=held)]

    def changes(self, services: Iterable[ServiceEvent]) -> list[NewEntry]:
        """Those that the VIM does not know; its own word, the reporting state, is no news.

        From here on nobody can say what the VIM knows of them, until :meth:`notified` does: whoever
        has them stored may be cancelled, and the store has taken them all the same.
        """
        changed = [
            now
            for now in services
            if (sent := self._sent.get(now.uuid)) is None
            or (sent.hostname, sent.status, sent.restart_timeout_s)
            != (now.hostname, now.status, now.restart_timeout_s)
        ]
        for now in changed:
            self._sent.pop(now.uuid, None)
            self._newest[now.uuid] = now
        return [NewEntry(OutboxKind.SERVICE, now.uuid, now.body()) for now in changed]

    def notified(self, services: Iterable[ServiceEvent]) -> None:
        """These are in the store, or known to the VIM anyway."""
        # Those who wait for the store at the same time are woken in any order.
        newest = [now for now in services if self._newest.get(now.uuid, now) == now]
        self._sent |= {now.uuid: now for now in newest}
        self._owed -= {now.uuid for now in newest}

    def given_up(self, uuid: str, *, for_good: bool) -> None:
        """The VIM did not take what it was sent: at the next occasion it is notified again.

        That is the next change, its host's next snapshot or, unless it said that it does not want
        this at all (``for_good``), :meth:`notify_again`.
        """
        if self._sent.pop(uuid, None) is not None and not for_good:
            self._owed.add(uuid)

    def forget(self, bound: InstanceRecord) -> None:
        """The VIM does not want to hear of the instance any more."""
        self._sent.pop(bound.uuid, None)
        self._newest.pop(bound.uuid, None)
        self._owed.discard(bound.uuid)

    async def notify_again(self, bound: InstanceRecord) -> None:
        """The VIM has listed the instance: what was sent to it in vain, if anything, is again.

        Raises:
            StoreFault: nothing was queued.
        """
        if bound.uuid in self._owed:
            await self.notify([bound])

    async def notify(self, bound: Iterable[InstanceRecord]) -> None:
        """Queues what the VIM does not know of these instances.

        Raises:
            StoreFault: nothing was queued.
        """
        services = [self.service(one) for one in bound]
        entries = self.changes(services)
        if not entries or not self._fleet.has_vim:
            return
        try:
            await self._store.queue(entries)
        finally:
            # Even where this is cancelled: the store may have taken them.
            self._outbox.set()
        self.notified(services)


def warn_of_vote(reported: Instance, before: Instance | None = None) -> None:
    """Warns of a VOTE that the VIM does not wait for, if it was not so ``before``.

    Args:
        reported: what the host to which an instance is bound reports of it.
        before: what was known of it there; None if it was not, or was bound to no host or another.
    """
    if reported.vote_s > _VOTE_WARNING_S >= (0 if before is None else before.vote_s):
        text = "%s advertises a VOTE of %d s; the VIM goes on without it after 45 s"
        _log.warning(text, reported.uuid, reported.vote_s)
