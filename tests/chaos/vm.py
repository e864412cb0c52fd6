"""A VM of real processes, its guest daemon and scripts, and what is observed to be true of it."""

from __future__ import annotations

import random
from typing import Final, Protocol

import trio

from chaos.freezer import Freezer
from chaos.records import Records
from chaos.taps import ChannelTap
from hbtrio.lab.daemon import Daemon
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.libvirt import LabLibvirt
from hbtrio.lab.scene import Scene
from hbtrio.simulate.observations import Began, Condition, Over, Placed

#: Seconds from the start of a VM, or a reset, to the start of its guest daemon; Python adds some.
_BOOT_S: Final = (0.5, 3.0)

#: Seconds for which a migrating VM stands still.
_DOWNTIME_S: Final = (0.05, 0.6)

#: How often a guest refuses, and how much of its window it thinks, as in a simulation; each case is
#: as likely as the others.
_REJECTS: Final = 0.25
_THINKS: Final = ((0.0, 0.0), (0.0, 0.2), (0.2, 0.9), (0.9, 0.99))

#: What is over when a new operating system boots.
_OF_A_BOOT: Final = (Condition.GUEST_STOPPED, Condition.VM_HUNG)


class Place(Protocol):
    """A host, as far as a VM needs one."""

    name: str
    scene: Scene


class ChaosVm:
    """A VM, which is on as soon as it is made, without its guest daemon.

    Args:
        name: its name.
        guest: its channel, scripts and daemon.
        tap: reads along on its channel.
        place: the host that it is on.
        records: takes in what is true of it.
        draw: its random stream.
        window_s: the guest's own windows, in seconds.
    """

    def __init__(
        self,
        name: str,
        guest: LabGuest,
        tap: ChannelTap,
        place: Place,
        records: Records,
        draw: random.Random,
        window_s: int,
    ) -> None:
        self.name = name
        self.uuid = guest.uuid
        self.guest = guest
        self.tap = tap
        #: Whether it is drawn how its guest answers; else it is as somebody has set it.
        self.draws_answers = True
        #: Where its QEMU runs; None if it has none.
        self.place: Place | None = place
        #: Where it ran last.
        self.last: Place = place
        self._records = records
        self._draw = draw
        self._window_s = window_s
        self._freezer = Freezer(records, name, lambda: self.daemon)
        self._paused: object | None = None
        #: One change of it at a time.
        self._life = trio.Lock()
        self._gone = trio.Event()
        self._guest_down = False
        tap.on_spoken = self._spoke
        self._set_guest_down(down=True)
        records.observe(Placed(records.clock.now(), name, place.name))

    @property
    def daemon(self) -> Daemon | None:
        """The process of its guest daemon, or None."""
        daemon = self.guest.daemon
        return None if daemon is None or daemon.status is not None else daemon

    @property
    def hung(self) -> bool:
        """Whether its operating system hangs."""
        return self._freezer.holds(Condition.VM_HUNG)

    @property
    def libvirt(self) -> LabLibvirt:
        """That of its host."""
        return self.last.scene.libvirt

    def answers(self, kind: str, event: str) -> None:
        """Draws how it answers the next vote (``revocable``) or notice (``irrevocable``)."""
        if not self.draws_answers:
            return
        low, high = self._draw.choice(_THINKS)
        refuses = kind == "revocable" and self._draw.random() < _REJECTS
        self.guest.will(
            kind,
            event,
            after_s=round(self._window_s * self._draw.uniform(low, high), 3),
            status=int(refuses),
            says="busy" if refuses else "",
        )

    # -- its QEMU ---------------------------------------------------------------------------

    async def boot(self, place: Place) -> None:
        """Starts a QEMU and the guest daemon; nothing happens if there is one."""
        async with self._life:
            if self.place is not None:
                return
            self.guest.move(place.scene.channel_dir, place.scene.libvirt)
            self._run_at(place)
            await self.guest.plug()
            self._condition(Condition.VM_GONE, holds=False)
            await self._boot()

    async def reset(self) -> None:
        """Kills the guest and boots it again, as ``virsh reset`` does; nothing without a QEMU."""
        async with self._life:
            if self.place is None:
                return
            await self._lose_guest()
            self.libvirt.resets(self.uuid)
            await self._boot()

    async def end(self) -> None:
        """Ends its QEMU at once; nothing happens if there is none."""
        async with self._life:
            if self.place is None:
                return
            await self._lose_guest()
            self._unpause()
            self.place = None
            await self.guest.unplug()
            self._condition(Condition.VM_GONE, holds=True)

    async def shut_down(self) -> None:
        """Has the operating system shut down, and then ends the QEMU; not if it is paused."""
        if self._paused is None and not self.hung:
            async with self._life:
                daemon = self.daemon
                if daemon is not None:
                    self._set_guest_down(down=True)
                    await self.guest.stop()
                    self._gone.set()
        await self.end()

    def pause(self) -> bool:
        """Pauses its vCPUs, as libvirt knows; returns whether they ran."""
        if self.place is None or self._paused is not None:
            return False
        self._paused = self._freezer.freeze(Condition.VM_PAUSED)
        self.libvirt.pauses(self.uuid)
        return True

    def resume(self) -> None:
        """Ends a pause; nothing happens without one."""
        if self.place is not None and self._paused is not None:
            self._unpause()
            self.libvirt.resumes(self.uuid)

    async def migrate(self, target: Place) -> None:
        """Moves it to another host, which it does not notice; a paused one stays."""
        async with self._life:
            if self.place is None or self._paused is not None:
                return
            moving = self._freezer.freeze(Condition.VM_MIGRATING)
            await trio.sleep(self._draw.uniform(*_DOWNTIME_S))
            await self.guest.migrate(target.scene.channel_dir, target.scene.libvirt)
            self._run_at(target)
            self._freezer.thaw(moving)

    # -- what happens in it -----------------------------------------------------------------

    async def start(self) -> None:
        """Boots it for the first time."""
        async with self._life:
            await self._boot()

    def hang(self) -> None:
        """Its operating system hangs for good, until a reset."""
        if self.place is not None and self._paused is None and self.daemon and not self.hung:
            self._freezer.freeze(Condition.VM_HUNG)

    async def stop_guest_for(self, seconds: float) -> None:
        """SIGSTOP for its guest daemon, and SIGCONT some seconds later; over if it dies."""
        if self.daemon is None:
            return
        gone = self._gone
        token = self._freezer.freeze(Condition.GUEST_STOPPED)
        with trio.move_on_after(seconds):
            await gone.wait()
        self._freezer.thaw(token)

    async def lose_guest_for(self, seconds: float, *, by_kill: bool) -> None:
        """Ends its guest daemon, and starts it again unless the VM has booted meanwhile."""
        async with self._life:
            if self.daemon is None or self.hung:
                return
            if by_kill:
                await self._lose_guest()
            else:
                self._set_guest_down(down=True)
                await self.guest.stop()
                self._gone.set()
                self._freezer.forget(_OF_A_BOOT)
        await trio.sleep(seconds)
        async with self._life:
            if self.place is not None and self.daemon is None:
                await self._launch()

    async def ill_for(self, seconds: float) -> None:
        """Its health script says that it is ill."""
        self._condition(Condition.GUEST_ILL, holds=True)
        self.guest.feels(1, "it is ill")
        await trio.sleep(seconds)
        self.guest.feels(0)
        self._condition(Condition.GUEST_ILL, holds=False)

    async def disturb_channel(self, seconds: float, *, to_guest: bool, to_host: bool) -> None:
        """Holds back what goes one way or both ways."""
        self._condition(Condition.CHANNEL_DISTURBED, holds=True)
        ways = ((self.tap.to_guest, to_guest), (self.tap.to_host, to_host))
        gates = [gate for gate, held in ways if held]
        for gate in gates:
            gate.hold()
        await trio.sleep(seconds)
        for gate in gates:
            gate.release()
        self._condition(Condition.CHANNEL_DISTURBED, holds=False)

    async def cut_channel(self, within_s: float) -> None:
        """Ends the connections of its channel; disturbed until the host hears it again."""
        self._condition(Condition.CHANNEL_DISTURBED, holds=True)
        await self.guest.bridge.cut()
        self.tap.heard = trio.Event()
        with trio.move_on_after(within_s):
            await self.tap.heard.wait()
        self._condition(Condition.CHANNEL_DISTURBED, holds=False)

    # -- inside -----------------------------------------------------------------------------

    async def _boot(self) -> None:
        await trio.sleep(self._draw.uniform(*_BOOT_S))
        await self._launch()

    async def _launch(self) -> None:
        self._gone = trio.Event()
        self._set_guest_down(down=True)
        await self.guest.start()
        self._freezer.started()

    def _spoke(self) -> None:
        """Its guest daemon has said something."""
        if self.daemon is not None:
            self._set_guest_down(down=False)

    async def _lose_guest(self) -> None:
        self._set_guest_down(down=True)
        await self.guest.kill()
        self._gone.set()
        self._freezer.forget(_OF_A_BOOT)

    def _set_guest_down(self, *, down: bool) -> None:
        if down != self._guest_down:
            self._guest_down = down
            self._condition(Condition.GUEST_DOWN, holds=down)

    def _run_at(self, place: Place) -> None:
        self.place = self.last = place
        self._records.observe(Placed(self._records.clock.now(), self.name, place.name))

    def _unpause(self) -> None:
        if self._paused is not None:
            self._freezer.thaw(self._paused)
            self._paused = None

    def _condition(self, condition: Condition, *, holds: bool) -> None:
        kind = Began if holds else Over
        self._records.observe(kind(self._records.clock.now(), condition, self.name))
