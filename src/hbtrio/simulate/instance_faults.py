"""What a fault does to an instance: to its VM, its guest daemon and its channel."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fault_spans import lasts
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.observations import Condition
from hbtrio.simulate.pipe import Strain
from hbtrio.simulate.places import Stage
from hbtrio.simulate.schedule import Fault

#: How long a channel that was cut, or got old bytes, is not as usual, in seconds.
_RECONNECTS_S: Final = 0.5

#: How long before or after a VM's hanging something else happens to it, in seconds, at most.
_BESIDE_S: Final = 5.0

#: After how long a VM that hangs may be lost, in seconds; and how late libvirt's events are then.
_LOST_S: Final = 2.0
_EVENTS_LATE_S: Final = 3.0

_SPLIT: Final = Strain(split=1.0)
_SHORT: Final = Strain(short=1.0)


class InstanceFaults:
    """Strikes instances.

    Args:
        stage: what all parts use.
        hosts: the compute hosts.
    """

    def __init__(self, stage: Stage, hosts: Sequence[ComputeHost]) -> None:
        self._stage = stage
        self._hosts = hosts
        self._beside = stage.timeline.random("hangs")
        self._pauses = stage.timeline.random("pauses of the hung")
        self._silences = stage.timeline.random("silences beside hangs")
        self._timeline = stage.timeline
        self._random = stage.timeline.random("lies")

    def strike(self, fault: Fault, instance: Instance) -> None:
        """Strikes an instance."""
        for_s = fault.for_s or 0.0
        port = instance.port
        match fault.kind:
            case Kind.STOP_GUEST | Kind.STOP_GUEST_AT_WINDOW_END:
                if instance.guest is not None and instance.guest_lives:
                    instance.guest.process.freeze_for(for_s)
                    lasts(self._stage, Condition.GUEST_STOPPED, instance.name, for_s)
            case Kind.KILL_GUEST | Kind.KILL_GUEST_AT_STEP:
                instance.kill_guest()
                self._timeline.after(for_s, instance.revive_guest)
            case Kind.RESTART_GUEST:
                instance.terminate_guest()
                self._timeline.after(for_s + 1.0, instance.revive_guest)
            case Kind.STALL_VM:
                instance.stall(for_s)
            case Kind.PAUSE_VM:
                self._pause(instance, for_s)
            case Kind.HANG_VM:
                instance.hang()
            case Kind.HANG_VM_AND_KILL_HOST:
                self._hang_beside(instance, self._beside, partial(self._lose_daemon, for_s))
            case Kind.HANG_VM_AND_LIBVIRT:
                self._hang_beside(instance, self._silences, partial(self._lose_libvirt, for_s))
            case Kind.HANG_VM_AND_PAUSE_IT:
                instance.hang()
                later_s = self._pauses.uniform(_LOST_S, _BESIDE_S)
                self._timeline.after(later_s, partial(self._pause_quietly, instance, for_s))
            case Kind.ILL_GUEST:
                instance.ill = True
                lasts(self._stage, Condition.GUEST_ILL, instance.name, for_s)
                self._timeline.after(for_s, partial(setattr, instance, "ill", False))
            case Kind.LYING_GUEST:
                port.mangle = partial(_mangled, self._random)
                lasts(self._stage, Condition.GUEST_LYING, instance.name, for_s)
                self._timeline.after(for_s, partial(setattr, port, "mangle", None))
            case Kind.CUT_CHANNEL:
                port.cut()
                lasts(self._stage, Condition.CHANNEL_DISTURBED, instance.name, _RECONNECTS_S)
            case Kind.CLOG_CHANNEL | Kind.HALF_OPEN_CHANNEL:
                half = fault.kind is Kind.HALF_OPEN_CHANNEL
                to_guest = not half or fault.who % 2 == 0
                port.clog(to_guest=to_guest, to_host=not half or not to_guest)
                self._timeline.after(for_s, port.unclog)
                lasts(self._stage, Condition.CHANNEL_DISTURBED, instance.name, for_s)
            case Kind.SPLIT_CHANNEL_WRITES | Kind.SHORT_CHANNEL_READS:
                port.strain(_SPLIT if fault.kind is Kind.SPLIT_CHANNEL_WRITES else _SHORT)
                self._timeline.after(for_s, port.strain)
            case Kind.REPLAY_CHANNEL:
                port.replay()
                lasts(self._stage, Condition.CHANNEL_DISTURBED, instance.name, _RECONNECTS_S)
            case Kind.STEP_GUEST_CLOCK:
                instance.machine.step_wall_clock(fault.by_s or 0.0)

    def _pause(self, instance: Instance, for_s: float) -> None:
        if instance.pause():
            self._timeline.after(for_s, instance.resume)

    def _pause_quietly(self, instance: Instance, for_s: float) -> None:
        """Pauses a VM while its loss is decided upon: only who asks libvirt knows of it."""
        host = next((host for host in self._hosts if host is instance.place), None)
        if host is not None:
            host.libvirt.mute_for(_EVENTS_LATE_S)
            self._pause(instance, for_s)

    def _hang_beside(
        self, instance: Instance, draw: random.Random, strike: Callable[[ComputeHost], None]
    ) -> None:
        """Hangs a VM while its host is struck, or shortly before: its loss may be half done."""
        host = next((host for host in self._hosts if host is instance.place), None)
        if host is None:
            return
        later_s = draw.uniform(-_BESIDE_S, _BESIDE_S)
        self._timeline.after(max(0.0, later_s), partial(strike, host))
        self._timeline.after(max(0.0, -later_s), instance.hang)

    def _lose_daemon(self, for_s: float, host: ComputeHost) -> None:
        host.daemon.kill()
        self._timeline.after(for_s, host.daemon.start)

    def _lose_libvirt(self, for_s: float, host: ComputeHost) -> None:
        host.libvirt.hang()
        self._timeline.after(for_s, host.libvirt.go_on)
        lasts(self._stage, Condition.LIBVIRT_SILENT, host.name, for_s)


def _mangled(draw: random.Random, data: bytes) -> bytes:
    """What a lying guest sends instead of a piece: another number or id, garbage, or nothing."""
    kind = draw.randrange(4)
    if kind == 0:
        digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
        if digits:
            at = draw.choice(digits)
            return data[:at] + str(draw.randrange(10)).encode() + data[at + 1 :]
    if kind == 1:
        return draw.randbytes(draw.randrange(1, 200)) + b"\n"
    return b"" if kind == 2 else data
