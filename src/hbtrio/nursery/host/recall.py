"""Expects the guests back that were heartbeating, or frozen, when an earlier run of the host ended.

A guest that hung meanwhile would otherwise never be missed. One that had said ``exit`` has what was
left of its time to come back, and an absence that was reported is not reported again. What was
known holds only for the QEMU process that it was known of: another one, or another boot of the
machine, starts as ``waiting``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

import attrs
import trio

from hbtrio.fsm.heartbeat.illness import ReportedIllness
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.store.host_records import KnownInstance, Moment
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.memory")

#: States of an instance whose guest is missed if it does not answer. Others were frozen, had left
#: or were reported; a frozen one must not be taken for a dead one.
_MISSED: Final = frozenset(
    state.value
    for state in (
        HeartbeatState.HEARTBEATING,
        HeartbeatState.RETURNING,
        HeartbeatState.RESTARTING,
    )
)

#: States of an instance whose VM stands still, or may: its guest is missed once the VM runs again.
_FROZEN: Final = frozenset(
    state.value
    for state in (
        HeartbeatState.SUSPENDED,
        HeartbeatState.PAUSED,
        HeartbeatState.PROVISIONAL,
        HeartbeatState.UNWATCHED,
    )
)

#: States of an instance without a guest, which was reported.
_MISSING: Final = frozenset({HeartbeatState.ABSENT.value, HeartbeatState.UNHEARD.value})

#: States of those that were frozen, had left or were missing, until they are heard.
_UNHEARD: Final = _FROZEN | _MISSING | {HeartbeatState.WAITING.value}

#: Challenges that an instance is sent at least, if its RESTART window ended while no host ran.
_AT_LEAST: Final = 4

#: The reason of one that is unwatched, as the heartbeat words it.
_SILENT_AGAIN: Final = re.compile(
    r"silent again after (.*), which should be over by now", re.DOTALL
)

_REASON: Final = "it was heartbeating before the host's restart"

_ANOTHER: Final = "another QEMU process than before the host's restart"


@attrs.frozen
class _Expected:
    """An instance that is expected back; ``until`` is on trio's clock."""

    known: KnownInstance
    until: float


class Recall:
    """Knows who was heartbeating, until it is heard or given up.

    Args:
        channels: the channels of all instances, by uuid; a live view.
        boot_clock: returns CLOCK_BOOTTIME.
        known_now: returns what is known of a channel's instance now.
        on_absent: called with an instance of which not even a socket came back.
        on_given_up: called with the uuid of each instance that is not awaited any more.
        runs: returns whether libvirt says that an instance's VM runs.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        boot_clock: Callable[[], float],
        known_now: Callable[[Channel], KnownInstance],
        on_absent: Callable[[KnownInstance, str], None],
        on_given_up: Callable[[str], None],
        runs: Callable[[str], bool],
    ) -> None:
        self._channels = channels
        self._boot_clock = boot_clock
        self._known_now = known_now
        self._on_absent = on_absent
        self._on_given_up = on_given_up
        #: Those without a channel.
        self._expected: dict[str, _Expected] = {}
        #: Those whose channel expects its guest.
        self._introduced: dict[str, KnownInstance] = {}
        self._runs = runs
        #: Those whose VMs stood still or had no guest: without a channel, and with one.
        self._away: dict[str, KnownInstance] = {}
        self._still: dict[str, KnownInstance] = {}
        #: Until when the sockets of those are awaited that failed, and to which nothing was done.
        self._awaited: dict[str, float] = {}

    def __contains__(self, uuid: str) -> bool:
        """Whether the socket of an instance is expected to come back."""
        return uuid in self._expected

    def awaits(self, uuid: str) -> bool:
        """Returns whether an instance has failed and may still be silent, though without a socket.

        It has the rest of its RESTART window for that, or after another boot a whole one, and a few
        intervals more.
        """
        return uuid in self._awaited

    def take(
        self, instances: Collection[KnownInstance], kept_back: Collection[str], moment: Moment
    ) -> None:
        """Expects those that were heartbeating, from ``moment`` on.

        Args:
            instances: what was known of each.
            kept_back: lost ones to which nothing was done yet: they fail anew if they stay silent.
            moment: when this run has begun.
        """
        now = trio.current_time()
        for known in instances:
            if not known.boot_id or known.boot_id != moment.boot_id:
                continue
            if _was_frozen(known) or known.state in _MISSING or _had_left(known):
                self._away[known.uuid] = known
            elif known.state in _MISSED or known.uuid in kept_back:
                left_s = float(known.profile.restart_s)
                if known.expected_until is not None:
                    left_s = min(left_s, known.expected_until - moment.boot_s)
                left_s = max(left_s, _AT_LEAST * known.profile.interval_s)
                self._expected[known.uuid] = _Expected(known, now + left_s)
        for known in instances:
            if known.uuid in kept_back:
                expected = self._expected.get(known.uuid)
                until = now + known.profile.restart_s if expected is None else expected.until
                # Those that are there may be lost anew at that time, and are counted before.
                self._awaited[known.uuid] = until + _AT_LEAST * known.profile.interval_s
        forgotten = sorted(set(kept_back) - self._awaited.keys())
        if self._expected:
            _log.info("%d instances were heartbeating before the restart", len(self._expected))
        for uuid in (*self._expected, *self._away, *self._awaited):
            if (channel := self._channels.get(uuid)) is not None:
                self.introduce(channel)
        for uuid in forgotten:
            self._on_given_up(uuid)

    def introduce(self, channel: Channel) -> None:
        """Has a channel expect its guest, if it was heartbeating or its VM stood still."""
        self._awaited.pop(channel.uuid, None)
        away = self._away.pop(channel.uuid, None)
        if away is not None and away.is_same_start(self._known_now(channel)):
            self._introduce_away(channel, away)
            self._still[channel.uuid] = away
            self._changed_still(channel, away)
        expected = self._expected.pop(channel.uuid, None)
        if expected is None or not expected.known.is_same_start(self._known_now(channel)):
            return
        self._introduced[channel.uuid] = expected.known
        known, now = expected.known, trio.current_time()
        if known.ill_action is not None:
            # Known of this boot, as it is the same start.
            at = now - max(0.0, self._boot_clock() - known.ill_at)
            illness = ReportedIllness(known.ill_action, known.ill_reason, at)
            channel.heartbeat.situation.illness.recall(illness)
        left_s = max(0.0, expected.until - now)
        channel.outages.presume(expected.known.profile, _REASON, left_s)

    def _introduce_away(self, channel: Channel, known: KnownInstance) -> None:
        outages, profile = channel.outages, known.profile
        if known.state in _FROZEN:
            was = HeartbeatState(known.state)
            outages.freeze(profile, known.reason, _event_of(known), was)
        elif known.state in _MISSING:
            unheard = known.state == HeartbeatState.UNHEARD.value
            outages.was_missing(profile, known.reason, unheard=unheard)
        elif known.expected_until is not None:
            left_s = max(0.0, known.expected_until - self._boot_clock())
            outages.had_left(profile, known.reason, max(left_s, profile.interval_s))

    def changed(self, channel: Channel) -> None:
        """Takes a change of an instance or of its domain: libvirt may only answer later."""
        if (still := self._still.get(channel.uuid)) is not None:
            self._changed_still(channel, still)
        known = self._introduced.get(channel.uuid)
        if known is None:
            return
        if not channel.heartbeat.situation.is_presumed:
            del self._introduced[channel.uuid]
        elif not known.is_same_start(self._known_now(channel)):
            del self._introduced[channel.uuid]
            channel.outages.another_process(_ANOTHER)

    def _changed_still(self, channel: Channel, known: KnownInstance) -> None:
        beat = channel.heartbeat
        if beat.state.value not in _UNHEARD or not beat.situation.is_remembered:
            del self._still[channel.uuid]
        elif not known.is_same_start(self._known_now(channel)):
            del self._still[channel.uuid]
            channel.outages.another_process(_ANOTHER)
        elif known.state in _FROZEN and self._runs(channel.uuid):
            del self._still[channel.uuid]
            channel.outages.runs_again(f"{known.reason}; libvirt says that it runs")

    def forget(self, uuid: str) -> None:
        """Takes the end of a channel."""
        self._introduced.pop(uuid, None)
        self._still.pop(uuid, None)

    def dismiss(self, uuid: str) -> None:
        """Expects an instance no more that is not watched now."""
        self._expected.pop(uuid, None)
        if self._awaited.pop(uuid, None) is not None:
            self._on_given_up(uuid)

    def expire(self) -> float | None:
        """Gives up those that still have no channel when their time is over.

        Returns when to call again, on trio's clock; None for never.
        """
        now, due = trio.current_time(), None
        for uuid, expected in tuple(self._expected.items()):
            if expected.until <= now:
                del self._expected[uuid]
                text = f"not back within {expected.known.profile.restart_s} s of the host's restart"
                self._on_absent(expected.known, f"{text}: it has no socket")
            elif due is None or expected.until < due:
                due = expected.until
        for uuid, until in tuple(self._awaited.items()):
            if until <= now:
                self.dismiss(uuid)
            elif due is None or until < due:
                due = until
        return due


def _event_of(known: KnownInstance) -> str:
    """The event that an instance was suspended for, from its reason; else libvirt's words."""
    if (silent_again := _SILENT_AGAIN.fullmatch(known.reason)) is not None:
        return silent_again[1]
    return known.reason.removesuffix(" is in progress").rpartition(", ")[2]


def _was_frozen(known: KnownInstance) -> bool:
    """Whether its VM stood still, or may have, and was not to be stopped."""
    return known.state in _FROZEN and _event_of(known) != Event.STOP


def _had_left(known: KnownInstance) -> bool:
    """Whether its guest had said ``exit`` and could still come back in time."""
    return known.state == HeartbeatState.WAITING.value and known.expected_until is not None
