"""What instances are doing, as their hosts tell, and what of it the VIM is told.

Of an instance's heartbeating the VIM hears when it changes, and of its loss and ill health each
time, while both the host's and the instance's reporting are on. An alarm goes before the change
that comes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.nursery.agent.vim_delivery import VimDelivery
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
    """What is known of instances, and what was told of it.

    Args:
        store: keeps what is to be told.
        sender: tells it; without a VIM, None: then nothing is queued.
    """

    def __init__(self, store: Store, sender: VimDelivery | None) -> None:
        self._store = store
        self._sender = sender
        #: By host and instance: while it moves, an instance is on two hosts.
        self._live: dict[tuple[str, str], Instance] = {}
        #: The names of instances of hosts that have told nothing for long, by host and uuid.
        self._names: dict[str, dict[str, str]] = {}
        #: What the VIM was told last, or is about to be; of those left out nobody knows.
        self._told: dict[str, ServiceEvent] = {}
        #: The newest that was taken to be stored, of several under way at once.
        self._newest: dict[str, ServiceEvent] = {}
        #: Those of which it was told in vain, for so long that its delivery was given up.
        self._owed: set[str] = set()

    # -- what hosts tell --------------------------------------------------------------------

    def live(self, hostname: str, uuid: str) -> Instance | None:
        """What that host told of the instance last, or None."""
        return self._live.get((hostname, uuid))

    def heard(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """A host told of an instance, or with None that it has it no longer."""
        if instance is None:
            self._live.pop((hostname, uuid), None)
        else:
            self._live[hostname, uuid] = instance
            self._names.get(hostname, {}).pop(uuid, None)

    def last_name(self, bound: InstanceRecord) -> str:
        """The name of an instance of which its host tells nothing, as it was last told; or ""."""
        return self._names.get(bound.hostname, {}).get(bound.uuid, "")

    def moved(self, before: InstanceRecord, hostname: str) -> None:
        """The instance is bound to another host; until that tells of it, its last name is kept."""
        name = self._names.get(before.hostname, {}).pop(before.uuid, "")
        if name:
            self._names.setdefault(hostname, {})[before.uuid] = name

    def lose_host(self, hostname: str, bound: Iterable[InstanceRecord]) -> None:
        """Forgets what a host told, but for the names of those that are bound to it.

        They are kept until its next snapshot: people know an instance by its name.
        """
        names = self._names.get(hostname, {})
        names |= {one.uuid: live.name for one in bound if (live := self.live(hostname, one.uuid))}
        self.forget_host(hostname)
        if names:
            self._names[hostname] = names

    def forget_host(self, hostname: str, but: Iterable[str] = ()) -> None:
        """Forgets what a host told, but of those instances."""
        self._names.pop(hostname, None)
        kept = set(but)
        for key in [key for key in self._live if key[0] == hostname and key[1] not in kept]:
            del self._live[key]

    # -- what the VIM is told ---------------------------------------------------------------

    def service(self, bound: InstanceRecord) -> ServiceEvent:
        """How an instance stands now."""
        live = self._live.get((bound.hostname, bound.uuid))
        beating = live is not None and live.heartbeating
        return ServiceEvent(
            uuid=bound.uuid,
            hostname=bound.hostname,
            state=Switch.ENABLED if bound.reporting else Switch.DISABLED,
            status=Switch.ENABLED if beating else Switch.DISABLED,
            restart_timeout_s=live.restart_s if live is not None and beating else 0,
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

        From here on nobody can say what the VIM knows of them, until :meth:`told` does: whoever has
        them stored may be cancelled, and the store has taken them all the same.
        """
        changed = [
            now
            for now in services
            if (told := self._told.get(now.uuid)) is None
            or (told.hostname, told.status, told.restart_timeout_s)
            != (now.hostname, now.status, now.restart_timeout_s)
        ]
        for now in changed:
            self._told.pop(now.uuid, None)
            self._newest[now.uuid] = now
        return [NewEntry(OutboxKind.SERVICE, now.uuid, now.body()) for now in changed]

    def told(self, services: Iterable[ServiceEvent]) -> None:
        """These are in the store, or known to the VIM anyway."""
        # Those who wait for the store at the same time are woken in any order.
        newest = [now for now in services if self._newest.get(now.uuid, now) == now]
        self._told |= {now.uuid: now for now in newest}
        self._owed -= {now.uuid for now in newest}

    def given_up(self, uuid: str, *, for_good: bool) -> None:
        """The VIM did not take what it was told: at the next occasion it is told again.

        That is the next change, its host's next snapshot or, unless it said that it does not want
        this at all (``for_good``), :meth:`tell_again`.
        """
        if self._told.pop(uuid, None) is not None and not for_good:
            self._owed.add(uuid)

    def forget(self, bound: InstanceRecord) -> None:
        """The VIM does not want to hear of the instance any more."""
        self._names.get(bound.hostname, {}).pop(bound.uuid, None)
        self._told.pop(bound.uuid, None)
        self._newest.pop(bound.uuid, None)
        self._owed.discard(bound.uuid)

    async def tell_again(self, bound: InstanceRecord) -> None:
        """The VIM has spoken of the instance: it is told what it was told in vain, if it was.

        Raises:
            StoreFault: nothing was queued.
        """
        if bound.uuid in self._owed:
            await self.tell([bound])

    async def tell(self, bound: Iterable[InstanceRecord]) -> None:
        """Queues what the VIM does not know of these instances.

        Raises:
            StoreFault: nothing was queued.
        """
        services = [self.service(one) for one in bound]
        entries = self.changes(services)
        if not entries or self._sender is None:
            return
        try:
            await self._store.queue(entries)
        finally:
            # Even where this is cancelled: the store may have taken them.
            self._sender.wake()
        self.told(services)


def warn_of_vote(told: Instance, before: Instance | None = None) -> None:
    """Warns of a VOTE that the VIM does not wait for, if it was not so ``before``.

    Args:
        told: what the host to which an instance is bound tells of it.
        before: what was known of it there; None if it was not, or was bound to no host or another.
    """
    if told.vote_s > _VOTE_WARNING_S >= (0 if before is None else before.vote_s):
        text = "%s advertises a VOTE of %d s; the VIM goes on without it after 45 s"
        _log.warning(text, told.uuid, told.vote_s)
