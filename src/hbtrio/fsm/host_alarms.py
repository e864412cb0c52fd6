"""Decides for one host which alarms are held back, let go or withdrawn.

If many instances of a host fail at once, or its link drops, the host is at fault. To see whether
more instances follow, each alarm is held for one interval first:

* an instance that recovers withdraws its own alarm while that is held;
* if too many fail within an interval of each other, the host raises an alarm and its instances'
  alarms stay held, see :mod:`hbtrio.fsm.alarm_hold`;
* otherwise the alarm is let go.

A link that drops while enough instances are heartbeating raises the host's alarm at once; the first
recovery that the host reports then begins the release. So does the VIM when it has moved or deleted
the last failed instance: none of them can recover there.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Set
from datetime import datetime

import attrs

from hbtrio.fsm.alarm_hold import AlarmHold
from hbtrio.policy.losses import HeartbeatingInstances
from hbtrio.policy.mass_failure import Failure, FailureVerdict, MassFailures
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import Health


@attrs.frozen
class RaiseHostAlarm:
    """Raise the host's alarm, and store that its instances' alarms are held back."""

    hold: AlarmHold


@attrs.frozen
class ReportReturn:
    """Report that instances of the host have recovered."""


@attrs.frozen
class ReportSettling:
    """Report that instances that do not recover in time will raise alarms."""


@attrs.frozen
class EndHold:
    """End a hold whose time is over: send its alarms, except those not judged yet."""

    hold: AlarmHold


@attrs.frozen
class LetGo:
    """Send the alarm about this instance, if it is still wanted."""

    uuid: str


@attrs.frozen
class WithdrawAlarm:
    """Withdraw the alarm about this instance, if one is held: the instance has recovered."""

    uuid: str


HostAlarmEffect = RaiseHostAlarm | ReportReturn | ReportSettling | EndHold | LetGo | WithdrawAlarm


class HostAlarms:
    """The alarms of one host. Times are in seconds on the caller's clock.

    The driver carries out returned effects in order.

    Args:
        hostname: the host.
        share: the share of instances, over 0 and at most 1, above which the host is at fault.
        minimum: hosts with fewer heartbeating instances than this are exempt.
    """

    def __init__(self, hostname: str, share: float, minimum: int) -> None:
        self.hostname = hostname
        #: The hold, also while it is being ended.
        self.hold: AlarmHold | None = None
        self._minimum = minimum
        self._failures = MassFailures(share, minimum)
        self._heartbeating = HeartbeatingInstances()
        #: Failures that are not judged yet, by when they are due and in the order they came.
        self._unjudged: list[tuple[float, int, Failure]] = []
        self._order = itertools.count()
        #: How many unjudged failures each instance has.
        self._in_question: Counter[str] = Counter()
        #: Instances that failed and have not been well since.
        self._failing: set[str] = set()

    @property
    def in_question(self) -> Set[str]:
        """Instances whose failures are not judged yet."""
        return self._in_question.keys()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held or in question."""
        return self.hold is None and not self._in_question

    @property
    def due_at(self) -> float | None:
        """When to call :meth:`due`; None: not before another event."""
        times = [at for at, _, _ in self._unjudged[:1]]
        if self.hold is not None and self.hold.due_at is not None:
            times.append(self.hold.due_at)
        return min(times, default=None)

    # -- what the host reports -------------------------------------------------------------

    def instance_reported(
        self, uuid: str, instance: Instance | None, now: float
    ) -> tuple[HostAlarmEffect, ...]:
        """Handles a report about an instance; None: the instance is gone."""
        if instance is None:
            self._heartbeating.remove(uuid)
            self._failing.discard(uuid)
            return ()
        self._heartbeating.update(uuid, heartbeating=instance.heartbeating, now=now)
        if not is_well(instance):
            return ()
        self._failing.discard(uuid)
        effects: list[HostAlarmEffect] = []
        hold = self._in_force
        if hold is not None and hold.concerns(uuid):
            begun = self._recovered(hold, "its instances have recovered", now)
            # The first of them says it for all: a host that is back reports hundreds at once.
            effects += [ReportReturn(), *begun] if begun else []
        if self.hold is not None or uuid in self._in_question:
            effects.append(WithdrawAlarm(uuid))
        return tuple(effects)

    def all_reported(self, uuids: Set[str]) -> None:
        """Handles the end of a snapshot: the host has no other instances."""
        self._heartbeating.keep_only(uuids)
        self._failing &= uuids

    def link_dropped(self, reason: str, since: datetime) -> tuple[HostAlarmEffect, ...]:
        """Handles the end of the link; ``since`` is the wall-clock time."""
        count = len(self._heartbeating)
        hold = self._in_force
        if hold is not None:
            hold.link_dropped()
        elif count >= self._minimum:
            reason = f"its link dropped while {count} instances were heartbeating: {reason}"
            return (self.raise_alarm(reason, since, None),)
        return ()

    def failed(self, uuid: str, at: datetime, interval_s: float, now: float) -> Failure | None:
        """Handles a failure; returns None if its alarm is not to be held.

        Args:
            uuid: the instance.
            at: when, by the host's clock: reports may come late, and many at once.
            interval_s: its heartbeat interval.
            now: the time.
        """
        total = self._heartbeating.count_before(uuid, now, interval_s)
        if total < self._minimum and self.hold is None:
            return None
        return Failure(uuid, at.timestamp(), interval_s, total)

    def consider(self, failure: Failure, *, well: bool, now: float) -> None:
        """Schedules a failure, whose alarm is held, to be judged when its interval is over.

        ``well``: whether the instance was well when its host reported it last.
        """
        self._failures.note(failure)
        self._in_question[failure.uuid] += 1
        if not well:
            self._failing.add(failure.uuid)
        heapq.heappush(self._unjudged, (now + failure.interval_s, next(self._order), failure))

    # -- what is due, and what others want --------------------------------------------------

    def due(
        self, now: float, since: datetime, wanted: Callable[[str], bool]
    ) -> tuple[HostAlarmEffect, ...]:
        """Judges the failures whose interval is over, and ends the hold whose time is.

        Args:
            now: the time.
            since: the same by the wall clock.
            wanted: whether an alarm about this instance is still wanted.
        """
        effects: list[HostAlarmEffect] = []
        while self._unjudged and self._unjudged[0][0] <= now:
            effects += self._judge(heapq.heappop(self._unjudged)[2], since, wanted)
        hold = self.hold
        if hold is not None and hold.due_at is not None and hold.due_at <= now:
            hold.time_over()
            effects.append(EndHold(hold))
        return tuple(effects)

    def left(
        self, uuid: str, now: float, wanted: Callable[[str], bool]
    ) -> tuple[HostAlarmEffect, ...]:
        """Handles an instance that the VIM has moved or deleted."""
        hold = self._in_force
        if hold is None or hold.lost is None:
            return ()
        hold.lost = hold.lost - {uuid}
        if any(wanted(one) for one in hold.lost):
            return ()
        hold.lost = None
        return self._recovered(hold, "the failed instances were moved or deleted", now)

    def raise_alarm(self, reason: str, since: datetime, lost: Set[str] | None) -> RaiseHostAlarm:
        """Starts a hold, which takes effect before the store has it."""
        self.hold = AlarmHold(self.hostname, since, reason, lost)
        return RaiseHostAlarm(self.hold)

    def end_failed(self, hold: AlarmHold, now: float) -> None:
        """Continues a hold that the store could not end."""
        hold.end_failed(now, replaced=hold is not self.hold)

    def ended(self, hold: AlarmHold) -> None:
        """Ends a hold that the store has ended."""
        hold.ended()
        if self.hold is hold:
            self.hold = None

    @property
    def _in_force(self) -> AlarmHold | None:
        return self.hold if self.hold is not None and self.hold.in_force else None

    def _recovered(self, hold: AlarmHold, reason: str, now: float) -> tuple[HostAlarmEffect, ...]:
        return (ReportSettling(),) if hold.recovered(reason, now) else ()

    def _judge(
        self, failure: Failure, since: datetime, wanted: Callable[[str], bool]
    ) -> tuple[HostAlarmEffect, ...]:
        one_of_many = self._failures.judge(failure) is not FailureVerdict.ACT
        # Skip instances that have left or are not to be reported: their alarms would never end.
        lost = {uuid for uuid in self._failing & self._in_question.keys() if wanted(uuid)}
        self._in_question[failure.uuid] -= 1
        if self._in_question[failure.uuid] == 0:
            del self._in_question[failure.uuid]
        hold = self._in_force
        if hold is not None:
            if hold.lost is not None or (lost and one_of_many):
                hold.more_failed(lost)
            return ()
        if lost and one_of_many:
            reason = f"{len(lost)} of {failure.total} instances failed at once"
            return (self.raise_alarm(reason, since, lost),)
        if failure.uuid in self._in_question:
            return ()  # a later failure of the same instance decides for both
        return (LetGo(failure.uuid),)


def is_well(instance: Instance) -> bool:
    """Returns whether an instance is heartbeating and not unhealthy."""
    return instance.heartbeating and instance.health is not Health.UNHEALTHY
