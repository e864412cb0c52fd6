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
* so does the VIM when it has moved or deleted the last of those that failed: none of them will be
  well there again;
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
from hbtrio.nursery.agent.alarm_holds import AlarmHold, AlarmHolds, Released
from hbtrio.policy.losses import Beating
from hbtrio.policy.mass_failure import BrakeVerdict, Failure, MassFailureBrake
from hbtrio.store.held_alarms import HeldAlarms, HoldRecord
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import Health

_log = logging.getLogger("hbtrio.brake")

#: After the first good beat the others have this long, in seconds, to be heard of. A host that was
#: frozen challenges all of them within a few intervals.
SETTLE_S: Final = 10.0


class NotHeld(Exception):
    """The host's alarms are not held back."""


@attrs.define(eq=False)
class _Host:
    brake: MassFailureBrake
    beating: Beating = attrs.field(factory=Beating)
    #: Instances whose failures are not judged yet, and how many of each.
    in_question: Counter[str] = attrs.field(factory=Counter)
    #: Instances that failed and were not well since.
    failing: set[str] = attrs.field(factory=set)
    hold: AlarmHold | None = None
    #: Whose turn it is to change its holds in the store.
    turn: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def in_force(self) -> AlarmHold | None:
        """The hold, unless it is being ended: nothing is left to that one any more."""
        return None if self.hold is None or self.hold.ending else self.hold


class MassFailureGuard:
    """The brake of all hosts.

    Args:
        settings: ``[brake]`` of the configuration.
        held: what is held, and survives.
        bound: how many instances the VIM has told of on a host.
        wanted: whether an alarm of this host about this instance is still of use.
        wake: told when an alarm is let go or withdrawn.
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
        self._wall_clock = wall_clock
        self._holds = AlarmHolds(
            held, wanted=wanted, wake=wake, publish=publish, wall_clock=wall_clock
        )
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
        hold = host.in_force
        if hold is not None and (hold.lost is None or uuid in hold.lost):
            _log.warning("%s: is heard of again", hostname)
            self._settle(hostname, host, hold, "its instances are back")
        if host.hold is not None or uuid in host.in_question:
            await self._holds.withdraw(hostname, uuid, "it is well again")

    def told_all(self, hostname: str, uuids: Set[str]) -> None:
        """A host told of all its instances: it has no others."""
        host = self._host(hostname)
        host.beating.only(uuids)
        host.failing &= uuids

    async def link_dropped(self, hostname: str, why: str) -> None:
        """The link of a host has ended."""
        host = self._host(hostname)
        count = len(host.beating)
        if host.in_force is not None:
            host.in_force.wait_on()
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
        # Of one that has left already, or is not to be reported, no alarm is of use: nobody would
        # take it off the list again.
        failing = host.failing & host.in_question.keys()
        lost = {uuid for uuid in failing if self._wanted(hostname, uuid)}
        host.in_question[failure.uuid] -= 1
        if host.in_question[failure.uuid] == 0:
            del host.in_question[failure.uuid]
        hold = host.in_force
        if hold is not None:
            if hold.lost is not None:
                hold.lost |= lost
            elif lost and not act:
                hold.lost = lost
                hold.wait_on()
        elif lost and not act:
            why = f"{len(lost)} of {failure.total} instances failed at once"
            await self._raise(hostname, host, why, lost)
        elif failure.uuid not in host.in_question:
            # Else a later failure of the same instance decides for both.
            await retry_forever(lambda: self._holds.let_go(hostname, {failure.uuid}))

    # -- who else may let go ----------------------------------------------------------------

    async def release(self, hostname: str, who: str, *, send: bool) -> Released:
        """Ends a host's hold: its alarms are sent, those that are still of use, or withdrawn.

        Raises:
            NotHeld: there is none.
            StoreFault: the hold goes on.
        """
        host = self._hosts.get(hostname)
        released = None
        if host is not None and host.hold is not None:
            why = f"an operator {'released' if send else 'withdrew'} them"
            released = await self._end(host, host.hold, why, who, send=send)
        if released is None:
            raise NotHeld(f"no alarms of {hostname} are held back")
        return released

    async def deleted(self, hostname: str) -> None:
        """The VIM has deleted the host, and wants to hear nothing of it.

        Raises:
            StoreFault: what is held of it is still held.
        """
        host = self._hosts.get(hostname)
        if host is not None and host.hold is not None:
            await self._end(host, host.hold, "the VIM has deleted it", "", send=False)

    async def left(self, hostname: str, uuid: str, why: str) -> None:
        """The VIM has an instance on that host no longer: it is elsewhere, or nowhere.

        Raises:
            StoreFault: what is held about it is still held.
        """
        await self._holds.withdraw(hostname, uuid, why)
        host = self._hosts.get(hostname)
        hold = None if host is None else host.in_force
        if host is not None and hold is not None and hold.lost is not None:
            hold.lost.discard(uuid)
            if not any(self._wanted(hostname, one) for one in hold.lost):
                hold.lost = None
                self._settle(hostname, host, hold, "those that failed have left it")

    def forget(self, hostname: str) -> None:
        """The host has been without a link for long; what is held of it stays."""
        host = self._hosts.get(hostname)
        if host is not None and host.hold is None and not host.in_question:
            del self._hosts[hostname]

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
            host = self._host(record.hostname)
            host.hold = AlarmHold(record, lost or None, host.turn, kept=True)
        for hostname, uuids in found.alarms.items():
            # The agent ended within the interval in which it looked whether more follow.
            if self.hold(hostname) is None:
                total = max(self._bound(hostname), len(uuids))
                if total >= self._settings.minimum and len(uuids) > self._settings.share * total:
                    why = f"{len(uuids)} of {total} instances had failed when the agent ended"
                    await self._raise(hostname, self._host(hostname), why, set(uuids))
                else:
                    await self._holds.let_go(hostname, uuids)

    async def _raise(self, hostname: str, host: _Host, why: str, lost: set[str] | None) -> None:
        # Set before the store has it: what comes meanwhile is held, too.
        record = HoldRecord(hostname, self._wall_clock(), why)
        hold = host.hold = AlarmHold(record, lost, host.turn)
        self.alarms += 1
        _log.critical("ALARM: %s: %s: alarms of its instances are held back", hostname, why)
        await self._holds.keep(hold)

    def _settle(self, hostname: str, host: _Host, hold: AlarmHold, why: str) -> None:
        if hold.settling is not None or self._nursery is None:
            return
        hold.settling = scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                _log.warning("%s: what is not back within %g s is alarmed", hostname, SETTLE_S)
                await trio.sleep(SETTLE_S)
            if not scope.cancelled_caught:
                await retry_forever(over)

        async def over() -> None:
            # Else the link has dropped while the disk did not answer.
            if hold.settling is scope:
                # Those in question are judged by themselves.
                await self._end(host, hold, why, "", send=True, but=host.in_question.keys)

        self._nursery.start_soon(wait)

    async def _end(
        self,
        host: _Host,
        hold: AlarmHold,
        why: str,
        who: str,
        *,
        send: bool,
        but: Callable[[], Set[str]] = frozenset,
    ) -> Released | None:
        released = await self._holds.end(hold, why, who, send=send, but=but)
        if host.hold is hold:
            host.hold = None
        return released


def is_well(instance: Instance) -> bool:
    """Whether it is heartbeating and has nothing to complain of."""
    return instance.heartbeating and instance.health is not Health.UNHEALTHY
