"""The records of a host's store, as its methods take and return them."""

from __future__ import annotations

import math

import attrs

from hbtrio.fsm.drain_records import StoredDrain
from hbtrio.policy.profile import Profile
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction


@attrs.frozen
class Moment:
    """A moment by the clock of one boot of the machine.

    Args:
        boot_id: the kernel's id of that boot.
        boot_s: CLOCK_BOOTTIME, in seconds.
        epoch_s: the wall clock, in seconds since the epoch.
    """

    boot_id: str
    boot_s: float
    epoch_s: float

    def since(self, earlier: Moment) -> float:
        """Returns the seconds since ``earlier``, at least 0.

        Exact within one boot. Across boots the wall clock has to do, which may have been set.
        """
        if earlier.boot_id == self.boot_id:
            return max(0.0, self.boot_s - earlier.boot_s)
        return max(0.0, self.epoch_s - earlier.epoch_s)


@attrs.frozen(kw_only=True)
class KnownInstance:
    """What a host knew of an instance.

    Args:
        uuid: the instance.
        state: the state of its heartbeat, a value of
            :class:`~hbtrio.fsm.heartbeat.table.HeartbeatState`.
        reason: why it was in that state.
        profile: what its guest advertised.
        boot_id: the machine's boot in which this was so.
        domain_id: libvirt's id of the domain; -1 if it is unknown or shut off.
        socket: the channel's socket as a file; "" if it is unknown.
        expected_until: the end of its RESTART window, or of the time in which a guest that has left
            may come back, by CLOCK_BOOTTIME; None if neither is open.
        ill_action: the corrective action of the last report of ill health; None if it is well.
        ill_reason: the reason in that report.
        ill_at: when it was reported, by CLOCK_BOOTTIME.
    """

    uuid: str
    state: str
    reason: str = ""
    profile: Profile = attrs.field(factory=Profile)
    boot_id: str
    domain_id: int = -1
    socket: str = ""
    expected_until: float | None = None
    ill_action: CorrectiveAction | None = None
    ill_reason: str = ""
    ill_at: float = 0.0

    def is_same_start(self, later: KnownInstance) -> bool:
        """Returns whether this was known of the same QEMU process as ``later``."""
        if not self.boot_id or self.boot_id != later.boot_id:
            return False
        if self.domain_id >= 0 <= later.domain_id:
            if self.domain_id != later.domain_id:
                return False
            # A libvirtd that starts without any VM counts from one again.
            if not (self.socket and later.socket):
                return True
        return self.socket == later.socket


@attrs.frozen(kw_only=True)
class ActionRecord:
    """An action in progress and the step it is at.

    Args:
        id: the action's own; never reused.
        uuid: the instance.
        name: which action.
        command: what performs it.
        force: whether the vote is skipped.
        who: who requested it.
        step: the state of the action's machine, a value of
            :class:`~hbtrio.fsm.action.ActionState`.
        step_deadline: when the step is over at the latest, by CLOCK_BOOTTIME; None for none.
        announced: whether the instance was notified, or is expected back without a notice.
        reason: the reason of its outcome, as far as it is known.
        begun_at: when it began, in seconds since the epoch.
        boot_id: the machine's boot in which this was so.
        domain_id: libvirt's id of the domain when the step began; -1 if it is unknown or shut off.
        drain: the drain that it is part of, or "".
    """

    id: str
    uuid: str
    name: ActionName
    command: tuple[str, ...]
    force: bool
    who: str
    step: str
    step_deadline: float | None = None
    announced: bool = False
    reason: str = ""
    begun_at: float
    boot_id: str
    domain_id: int = -1
    drain: str = ""

    def left_s(self, now: Moment) -> float:
        """Returns the seconds until the step is over; negative after that."""
        return math.inf if self.step_deadline is None else self.step_deadline - now.boot_s


@attrs.frozen
class CorrectiveRun:
    """A corrective command that was run and counts against the limit of its instance."""

    uuid: str
    at: Moment


@attrs.frozen
class HoldRecord:
    """A reason for which nothing is done to an instance, or with uuid "" to any of the host.

    Args:
        kind: the kind of reason; an instance has one hold of each kind.
        uuid: the instance, or "".
        why: for people.
        since: seconds since the epoch.
        who: the operator who asked for it; "" if it is the host's own.
        number: see :class:`~hbtrio.policy.instance_hold.InstanceHold`.
        is_ended: whether it is over, and kept for what was said elsewhere.
        ends: when it ends by itself; None: never.
    """

    kind: str
    uuid: str
    why: str
    since: float
    who: str = ""
    number: int = 0
    is_ended: bool = False
    ends: Moment | None = None

    def left_s(self, now: Moment) -> float:
        """Returns the seconds until it ends by itself; negative after that, infinity for never."""
        if self.ends is None:
            return math.inf
        if self.ends.boot_id == now.boot_id:
            return self.ends.boot_s - now.boot_s
        # The wall clock may have been set back, which must not prolong it.
        return min(self.ends.epoch_s - now.epoch_s, self.ends.epoch_s - self.since)


@attrs.frozen
class MemberRecord:
    """A member of some group, and libvirt's name of it; "" if that is unknown."""

    uuid: str
    name: str


@attrs.frozen
class Recollection:
    """What an earlier run of the host has left."""

    instances: tuple[KnownInstance, ...] = ()
    actions: tuple[ActionRecord, ...] = ()
    corrective_runs: tuple[CorrectiveRun, ...] = ()
    holds: tuple[HoldRecord, ...] = ()
    drains: tuple[StoredDrain, ...] = ()
    members: tuple[MemberRecord, ...] = ()
