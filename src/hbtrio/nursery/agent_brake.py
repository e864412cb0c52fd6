"""When many instances of a host fail at once, or its link drops, the host is the problem.

Its alarms are held back then, for a VIM that hears of a hundred lost instances reboots a hundred
that are well as soon as their host is. One alarm is raised for the host: a critical line in the
log, an entry in the history, and the host's status.

To see whether more instances follow, each alarm is held for one interval first. What happens next
is up to the host:

* an instance that is well again takes back its own alarm, as long as that is held;
* the first of those that failed to be so begins the release of the host's alarms: instances that
  are not back ``SETTLE_S`` later are alarmed. Where only the link dropped, it is the first instance
  that the host tells of;
* an operator may have them sent or withdrawn at once.

Hosts with fewer heartbeating instances than ``[brake] minimum`` are left alone. A held alarm
survives a restart of the agent, and so does the hold.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Set
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.config.host import BrakeSettings
from hbtrio.fsm.brake import BrakeVerdict, Failure, MassFailureBrake
from hbtrio.fsm.losses import Beating
from hbtrio.nursery.insist import insist
from hbtrio.nursery.store_held import HeldAlarms, HoldRecord
from hbtrio.nursery.store_records import HistoryEntry
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import Health

_log = logging.getLogger("hbtrio.brake")

#: After the first good beat the others have this long, in seconds, to be heard of. A host that was
#: frozen challenges all of them within a few intervals.
SETTLE_S: Final = 10.0

#: The kinds of history entries.
RAISED: Final = "host-alarm"
OVER: Final = "host-alarm-over"

USELESS: Final = "it is of no use any more"


class NotHeld(Exception):
    """The host's alarms are not held back."""


@attrs.frozen
class Released:
    """What became of a host's alarms: how many are sent, how many withdrawn."""

    sent: int
    withdrawn: int


@attrs.define(eq=False)
class _Hold:
    """A host whose alarms are held back.

    Args:
        record: as it is kept.
        lost: the instances one of which has to be heard of; None: any.
        settling: the time that the others have once one was.
    """

    record: HoldRecord
    lost: set[str] | None
    settling: trio.CancelScope | None = None

    def wait_on(self) -> None:
        """What was heard of before counts no more."""
        if self.settling is not None:
            self.settling.cancel()
            self.settling = None


@attrs.define(eq=False)
class _Host:
    brake: MassFailureBrake
    beating: Beating = attrs.field(factory=Beating)
    #: Instances whose failures are not judged yet, and how many of each.
    in_question: Counter[str] = attrs.field(factory=Counter)
    #: Instances that failed and were not well since.
    failing: set[str] = attrs.field(factory=set)
    hold: _Hold | None = None


class AgentBrake:
    """The brake of all hosts.

    Args:
        settings: ``[brake]`` of the configuration.
        held: what is held, and survives.
        bound: how many instances the VIM has told of on a host.
        wanted: whether an alarm of this host about this instance is still of use.
        wake: told when an alarm is let go.
        publish: told of what is kept in the history.
        wall_clock: the store's.
    """

    def __init__(
        self,
        settings: BrakeSettings,
        held: HeldAlarms,
        *,
        bound: Callable[[str], int],
        wanted: Callable[[str, str], bool],
        wake: Callable[[], None],
        publish: Callable[[HistoryEntry], None],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._held = held
        self._bound = bound
        self._wanted = wanted
        self._wake = wake
        self._publish = publish
        self._wall_clock = wall_clock
        self._hosts: dict[str, _Host] = {}
        self._nursery: trio.Nursery | None = None
        #: Host alarms raised since the start.
        self.alarms = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; what is held stays held.

        Raises:
            StoreFault: what is held can't be read at the start.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._remember()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                # What links that are being ended still tell is for the next process to judge.
                self._nursery = None

    def hold(self, hostname: str) -> HoldRecord | None:
        """Since when and why a host's alarms are held back, or None."""
        host = self._hosts.get(hostname)
        return None if host is None or host.hold is None else host.hold.record

    # -- what hosts tell --------------------------------------------------------------------

    async def told(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """A host told of an instance, or with None that it is gone.

        Raises:
            StoreFault: an alarm that is outdated now is still held.
        """
        host = self._host(hostname)
        if instance is None:
            host.beating.gone(uuid)
            host.failing.discard(uuid)
            return
        host.beating.told(uuid, beating=instance.heartbeating, now=trio.current_time())
        if not is_well(instance):
            return
        host.failing.discard(uuid)
        hold = host.hold
        if hold is not None and (hold.lost is None or uuid in hold.lost):
            self._settle(hostname, host, hold)
        if hold is not None or uuid in host.in_question:
            await self.withdraw(hostname, uuid, "it is well again")

    async def link_dropped(self, hostname: str, why: str) -> None:
        """The link of a host has ended."""
        host = self._host(hostname)
        count = len(host.beating)
        if host.hold is not None:
            host.hold.wait_on()
        elif count >= self._settings.minimum:
            why = f"its link dropped while {count} instances were heartbeating: {why}"
            await self._raise(hostname, host, why, None)

    def failed(
        self, hostname: str, uuid: str, instance: Instance | None, at: datetime
    ) -> Failure | None:
        """An instance failed; None if its alarm is not to be held.

        Args:
            hostname: its host.
            uuid: the instance.
            instance: what the host told of it last.
            at: when, by the host's clock: reports may come late, and many at once.
        """
        host = self._host(hostname)
        interval_s = 0.0 if instance is None else instance.interval_ms / 1000
        total = host.beating.before(uuid, trio.current_time(), interval_s)
        if total < self._settings.minimum and host.hold is None:
            return None
        return Failure(uuid, at.timestamp(), interval_s, total)

    def consider(self, hostname: str, failure: Failure, instance: Instance | None) -> None:
        """Judges a failure, whose alarm is held by now, once its interval is over."""
        host = self._host(hostname)
        host.brake.note(failure)
        host.in_question[failure.uuid] += 1
        if instance is None or not is_well(instance):
            host.failing.add(failure.uuid)
        if self._nursery is not None:
            self._nursery.start_soon(self._judge, hostname, host, failure)

    async def _judge(self, hostname: str, host: _Host, failure: Failure) -> None:
        await trio.sleep(failure.interval_s)
        act = host.brake.judge(failure) is BrakeVerdict.ACT
        lost = host.failing & host.in_question.keys()
        host.in_question[failure.uuid] -= 1
        if host.in_question[failure.uuid] == 0:
            del host.in_question[failure.uuid]
        if host.hold is not None:
            if host.hold.lost is not None:
                host.hold.lost |= lost
            elif lost and not act:
                host.hold.lost = lost
                host.hold.wait_on()
        elif lost and not act:
            why = f"{len(lost)} of {failure.total} instances failed at once"
            await self._raise(hostname, host, why, lost)
        elif failure.uuid not in host.in_question:
            # Else a later failure of the same instance decides for both.
            await insist(lambda: self._let_go(hostname, {failure.uuid}))

    # -- who else may let go ----------------------------------------------------------------

    async def release(self, hostname: str, who: str, *, send: bool) -> Released:
        """Ends a host's hold: its alarms are sent, those that are still of use, or withdrawn.

        Raises:
            NotHeld: there is none.
            StoreFault: the hold goes on.
        """
        host = self._hosts.get(hostname)
        if host is None or host.hold is None:
            raise NotHeld(f"no alarms of {hostname} are held back")
        uuids = await self._held.of(hostname)
        why = f"an operator {'released' if send else 'withdrew'} them"
        return await self._end(hostname, host, uuids, why, who, send=send)

    async def deleted(self, hostname: str) -> None:
        """The VIM has deleted the host, and wants to hear nothing of it.

        Raises:
            StoreFault: what is held of it is still held.
        """
        host = self._hosts.get(hostname)
        if host is not None and host.hold is not None:
            uuids = await self._held.of(hostname)
            await self._end(hostname, host, uuids, "the VIM has deleted it", "", send=False)

    def forget(self, hostname: str) -> None:
        """The host has been without a link for long; what is held of it stays."""
        host = self._hosts.get(hostname)
        if host is not None and host.hold is None and not host.in_question:
            del self._hosts[hostname]

    async def withdraw(self, hostname: str, uuid: str, why: str) -> None:
        """Takes back what is held about an instance.

        Raises:
            StoreFault: it is still held.
        """
        if await self._held.withdraw(hostname, [uuid], why):
            _log.info("%s: alarm withdrawn: %s", uuid, why)
            self._wake()

    # -- holds ------------------------------------------------------------------------------

    def _host(self, hostname: str) -> _Host:
        if hostname not in self._hosts:
            brake = MassFailureBrake(self._settings.share, self._settings.minimum)
            self._hosts[hostname] = _Host(brake)
        return self._hosts[hostname]

    async def _remember(self) -> None:
        found = await self._held.all()
        for record in found.holds:
            lost = set(found.alarms.get(record.hostname, ()))
            self._host(record.hostname).hold = _Hold(record, lost or None)
        for hostname, uuids in found.alarms.items():
            # The agent ended within the interval in which it looked whether more follow.
            if self.hold(hostname) is None:
                total = max(self._bound(hostname), len(uuids))
                if total >= self._settings.minimum and len(uuids) > self._settings.share * total:
                    why = f"{len(uuids)} of {total} instances had failed when the agent ended"
                    await self._raise(hostname, self._host(hostname), why, set(uuids))
                else:
                    await self._let_go(hostname, uuids)

    async def _raise(self, hostname: str, host: _Host, why: str, lost: set[str] | None) -> None:
        # Set before the store has it: what comes meanwhile is held, too.
        host.hold = _Hold(HoldRecord(hostname, self._wall_clock(), why), lost)
        record = host.hold.record
        self.alarms += 1
        _log.critical("ALARM: %s: %s: alarms of its instances are held back", hostname, why)
        entry = HistoryEntry(record.since, RAISED, "", hostname, why)
        await insist(lambda: self._held.hold(record, entry))
        self._publish(entry)

    def _settle(self, hostname: str, host: _Host, hold: _Hold) -> None:
        if hold.settling is not None or self._nursery is None:
            return
        hold.settling = scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                text = "%s: is heard of again: what is not back within %g s is alarmed"
                _log.warning(text, hostname, SETTLE_S)
                await trio.sleep(SETTLE_S)
            if not scope.cancelled_caught and host.hold is hold:
                await insist(over)

        async def over() -> None:
            # Those in question are judged by themselves.
            uuids = await self._held.of(hostname) - host.in_question.keys()
            await self._end(hostname, host, uuids, "its instances are back", "", send=True)

        self._nursery.start_soon(wait)

    async def _end(
        self, hostname: str, host: _Host, uuids: Set[str], why: str, who: str, *, send: bool
    ) -> Released:
        wanted = {uuid for uuid in uuids if send and self._wanted(hostname, uuid)}
        withdrawn = await self._held.withdraw(hostname, uuids - wanted, USELESS if send else why)
        entry = HistoryEntry(self._wall_clock(), OVER, "", hostname, why, who=who)
        sent = await self._held.end_hold(hostname, wanted, entry)
        host.hold = None
        self._wake()
        self._publish(entry)
        text = "%s: alarms are held back no longer: %s: %d sent, %d withdrawn"
        _log.warning(text, hostname, why, sent, len(withdrawn))
        return Released(sent, len(withdrawn))

    async def _let_go(self, hostname: str, uuids: Set[str]) -> None:
        wanted = {uuid for uuid in uuids if self._wanted(hostname, uuid)}
        await self._held.withdraw(hostname, uuids - wanted, USELESS)
        if await self._held.let_go(hostname, wanted):
            self._wake()


def is_well(instance: Instance) -> bool:
    """Whether it is heartbeating and has nothing to complain of."""
    return instance.heartbeating and instance.health is not Health.UNHEALTHY
