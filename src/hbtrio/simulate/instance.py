"""Simulates an instance: a VM with its QEMU, its domain in libvirt and its guest daemon.

Whoever acts on it, an orchestrator, an operator, a host's command or a fault, calls a method here.
What is true of the VM is observed from here too, and not from what the daemons make of it.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import attrs

from hbtrio.lab.virsh_output import PAUSED, RUNNING, SHUT_OFF
from hbtrio.simulate.libvirt import Libvirt
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import Began, Condition, Observation, Over, Placed
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.virtio import VirtioPort
from hbtrio.simulate.vm_changes import Ending, Pause

#: Seconds from the start of a VM, or a reset, to the start of its guest daemon.
_BOOT_S: Final = (2.0, 8.0)

#: Seconds in which a guest's operating system shuts down.
_SHUTDOWN_S: Final = (0.5, 3.0)

#: Seconds between two looks whether a paused VM goes on booting.
_LOOK_S: Final = 0.5

#: Seconds for which a migrating VM stands still, and in which one is saved.
_DOWNTIME_S: Final = (0.05, 0.6)
_SAVE_S: Final = (0.5, 5.0)

#: Seconds between the end of one QEMU and the start of the next that has the VM's memory.
_HANDOVER_S: Final = 0.01


class Place(Protocol):
    """A host, as far as an instance needs one."""

    @property
    def name(self) -> str:
        """The host's name."""

    @property
    def libvirt(self) -> Libvirt:
        """Its libvirt."""

    def plug(self, instance: Instance) -> str:
        """The QEMU of an instance listens at the socket of its channel; returns its path."""

    def unplug(self, instance: Instance) -> None:
        """That QEMU is gone, and its socket."""


@attrs.frozen
class Guest:
    """A guest daemon that was started."""

    process: Process
    signals: SignalQueue


class Instance:
    """An instance, which is off at first.

    Args:
        timeline: has the time.
        name: its name, in libvirt too.
        uuid: its uuid.
        make_port: makes the channel of a new QEMU.
        start_guest: starts its guest daemon on its machine.
        observe: called with what is true of it.
    """

    def __init__(
        self,
        timeline: Timeline,
        name: str,
        uuid: str,
        make_port: Callable[[], VirtioPort],
        start_guest: Callable[[Instance], Guest],
        observe: Callable[[Observation], None],
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.machine = Machine(timeline, name)
        #: The channel of its present or last QEMU.
        self.port = make_port()
        #: Where its QEMU runs; None if it has none.
        self.place: Place | None = None
        self.guest: Guest | None = None
        #: Whether the guest's operating system hangs.
        self.hung = False
        #: Whether it reports ill health.
        self.ill = False
        self._pause: Pause | None = None
        self._timeline = timeline
        self._make_port = make_port
        self._start_guest = start_guest
        self._observe = observe
        self._random: random.Random = timeline.random(f"instance {name}")
        #: Counts boots, so that what was planned for the previous one is dropped.
        self._boots = 0
        self._guest_down = False
        #: When the QEMU of a VM that is being saved or moved ends.
        self._left_at = 0.0
        self._conditions: Counter[Condition] = Counter()
        self._begin(Condition.VM_GONE)

    @property
    def runs(self) -> bool:
        """Whether it has a QEMU whose vCPUs are not paused by libvirt."""
        return self.place is not None and self._pause is None

    @property
    def guest_lives(self) -> bool:
        """Whether its guest daemon runs."""
        return self.guest is not None and self.guest.process.alive

    # -- its QEMU ----------------------------------------------------------------------------------

    def boot(self, place: Place) -> None:
        """Starts a QEMU; the guest daemon follows. Nothing happens if there is one."""
        if self.place is not None:
            return
        self.port = self._make_port()
        self._run_at(place)
        path = place.plug(self)
        place.libvirt.start(self.uuid, self.name, path, 1, "Resumed Unpaused", "Started Booted")
        self._boot()

    def reset(self) -> None:
        """Resets the VM, as ``virsh reset`` does; also one that hangs. Without a QEMU: nothing."""
        if self.place is None:
            return
        self.place.libvirt.reset(self.uuid)
        self.kill_guest()
        self._boot()

    def end(self, how: Ending) -> None:
        """Ends its QEMU at once; nothing happens if there is none."""
        place = self.place
        if place is None:
            return
        self._boots += 1  # so a VM that is being saved or moved does not go on
        self.kill_guest()
        self.guest = None
        self._unpause()
        self._stop_hanging()
        place.unplug(self)
        self.port.end()
        self.place = None
        reason, event = how.value
        place.libvirt.become(self.uuid, SHUT_OFF, reason, event)
        self._begin(Condition.VM_GONE)

    def shut_down(self) -> None:
        """Has the guest's operating system shut down, and then ends the QEMU."""
        boots = self._boots
        self.terminate_guest()

        def end() -> None:
            if self._boots == boots:
                self.end(Ending.SHUTDOWN)

        self._timeline.after(self._random.uniform(*_SHUTDOWN_S), end)

    def pause(self, why: Pause = Pause.USER) -> bool:
        """Pauses its vCPUs; returns whether they ran."""
        if not self.runs or self.place is None:
            return False
        reason, condition = why.value
        self._pause = why
        self._begin(condition)
        self.machine.pause()
        self.place.libvirt.become(self.uuid, PAUSED, reason, "Suspended Paused")
        return True

    def resume(self) -> None:
        """Ends a pause; nothing happens without one."""
        if self.place is not None and self._pause is not None:
            self._unpause()
            self.place.libvirt.become(self.uuid, RUNNING, 5, "Resumed Unpaused")

    def migrate(self, target: Place) -> None:
        """Moves the running VM, which stands still for a moment; a paused one stays."""
        if self.pause(Pause.MIGRATING):
            self._leave(Ending.MIGRATED, self._random.uniform(*_DOWNTIME_S))
            self._return(target, 0.0, 2, "Resumed Migrated")

    def save(self, for_s: float) -> None:
        """Saves the running VM to a file, and restores it after some seconds; not a paused one."""
        place = self.place
        if place is not None and self.pause(Pause.SAVING):
            self._leave(Ending.SAVED, self._random.uniform(*_SAVE_S))
            self._return(place, for_s, 3, "Resumed Unpaused", "Started Restored")

    def _leave(self, how: Ending, after_s: float) -> None:
        """Ends the QEMU of a paused VM whose memory is kept."""
        boots = self._boots
        self._left_at = self._timeline.now + after_s

        def leave() -> None:
            if self._boots == boots and self.place is not None:
                place, self.place = self.place, None
                place.unplug(self)
                while self.port.clients:
                    self.port.cut()
                reason, event = how.value
                place.libvirt.become(self.uuid, SHUT_OFF, reason, event)

        self._timeline.at(self._left_at, leave)

    def _return(self, place: Place, after_s: float, reason: int, *events: str) -> None:
        """Goes on in a new QEMU, some seconds after it has left the previous one."""
        boots = self._boots

        def arrive() -> None:
            if self._boots != boots:
                return
            self._run_at(place)
            path = place.plug(self)
            place.libvirt.start(self.uuid, self.name, path, reason, *events)
            self._unpause()

        self._timeline.at(self._left_at + after_s + _HANDOVER_S, arrive)

    # -- what happens in it ------------------------------------------------------------------------

    def hang(self) -> None:
        """Its operating system hangs for good, until a reset; one that boots does not."""
        if self.runs and not self.hung and self.guest is not None:
            self.hung = True
            self._begin(Condition.VM_HUNG)
            self.guest.process.freeze("hang")

    def stall(self, seconds: float) -> None:
        """The VM does not get the CPU for a while, and its clocks stand still with it."""
        if not self.runs or self.machine.paused:
            return
        self._begin(Condition.VM_STALLED)
        self.machine.pause()

        def go_on() -> None:
            self._over(Condition.VM_STALLED)
            if self._pause is None:
                self.machine.resume()

        self._timeline.after(seconds, go_on)

    def begin(self, condition: Condition) -> Callable[[], None]:
        """Something is so of the instance until the returned function is called."""
        self._begin(condition)
        return partial(self._over, condition)

    def kill_guest(self) -> None:
        """Kills its guest daemon, if it runs."""
        if self.guest is not None:
            self.guest.process.kill()

    def terminate_guest(self) -> None:
        """Sends its guest daemon SIGTERM, if it runs."""
        if self.guest is not None and self.guest_lives:
            self.guest.signals.send(signal.SIGTERM)

    def revive_guest(self) -> None:
        """Starts its guest daemon if it does not run although its operating system does."""
        if self.guest is not None and not self.hung and not self.guest_lives:
            self._start()

    # -- inside ------------------------------------------------------------------------------------

    def _run_at(self, place: Place) -> None:
        self.place = place
        self._observe(Placed(self._timeline.now, self.name, place.name))
        if self._conditions[Condition.VM_GONE]:
            self._over(Condition.VM_GONE)

    def _boot(self) -> None:
        """Its operating system boots; that of a paused VM waits until it goes on."""
        self._boots += 1
        self._stop_hanging()
        self.guest = None
        self._set_guest_down(down=True)
        self._timeline.after(self._random.uniform(*_BOOT_S), partial(self._booted, self._boots))

    def _booted(self, boot: int) -> None:
        if boot != self._boots:
            return
        if self.machine.paused:
            self._timeline.after(_LOOK_S, partial(self._booted, boot))
        else:
            self._start()

    def _start(self) -> None:
        self.guest = self._start_guest(self)
        self._set_guest_down(down=False)
        self.guest.process.at_death.append(partial(self._set_guest_down, down=True))

    def _set_guest_down(self, *, down: bool) -> None:
        if down != self._guest_down:
            self._guest_down = down
            (self._begin if down else self._over)(Condition.GUEST_DOWN)

    def _unpause(self) -> None:
        if self._pause is not None:
            _, condition = self._pause.value
            self._pause = None
            self._over(condition)
            if not self._conditions[Condition.VM_STALLED]:
                self.machine.resume()

    def _stop_hanging(self) -> None:
        if self.hung:
            self.hung = False
            self._over(Condition.VM_HUNG)

    def _begin(self, condition: Condition) -> None:
        self._conditions[condition] += 1
        self._observe(Began(self._timeline.now, condition, self.name))

    def _over(self, condition: Condition) -> None:
        self._conditions[condition] -= 1
        self._observe(Over(self._timeline.now, condition, self.name))
