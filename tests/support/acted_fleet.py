"""VMs to which commands really do something, and what must never be seen of them.

The commands of the host act on these VMs: they stop, restart, freeze or move. What is judged is
seen from outside: the commands that run, the notices that guests got, and the holds that were set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event
from support.fake_processes import End, FakeRun
from support.host_world import EPOCH as HOST_EPOCH
from support.host_world import NOTICE, HostWorld, ScriptedGuest, now
from support.inline_store import EPOCH

#: How long a command takes, and how long a VM takes to start, in seconds.
TAKES_S: Final = 2.0
BOOTS_S: Final = 8.0

#: After how many seconds the history has what has happened.
WRITTEN_S: Final = 0.5

#: The corrective command.
RESET: Final = "reset"

#: What ends the notice of each event, whether or not it has happened.
ENDS: Final = {
    Event.STOP: Event.RESUME,
    Event.REBOOT: Event.RESUME,
    Event.PAUSE: Event.UNPAUSE,
    Event.RESIZE_BEGIN: Event.RESIZE_END,
    Event.LIVE_MIGRATE_BEGIN: Event.LIVE_MIGRATE_END,
}

#: The commands that restart a VM, and those that take it down or let it stand still.
_RESTARTS: Final = frozenset({"reboot", "resize", RESET})
_TAKES_DOWN: Final = _RESTARTS | {"stop", "pause", "live-migrate"}


@attrs.define
class Vm:
    """A VM and its guest.

    Args:
        guest: its guest.
    """

    guest: ScriptedGuest
    #: Whether it has a socket, and whether its guest answers.
    is_there: bool = True
    answers: bool = True
    #: The command that runs on it; "" for none.
    command: str = ""
    #: Until when the last command has it down, if nothing else happens to it.
    down_until: float = -math.inf
    #: Whether it was up, and a command has taken it down; until it is back.
    is_taken: bool = False
    #: The event that its guest was told of, and not of its end.
    told: Event | None = None
    #: Whether nobody could tell its guest of that end.
    was_away: bool = False
    hold_since: float = math.inf
    hold_until: float = -math.inf
    #: How often something has happened to it: what was to come later is overtaken by that.
    changes: int = 0
    _seen: int = 0

    @property
    def is_up(self) -> bool:
        """Whether it runs, and its guest answers."""
        return self.is_there and self.answers

    @property
    def is_busy(self) -> bool:
        """Whether a command has it down, or is about to."""
        return self.command in _TAKES_DOWN or now() < self.down_until

    @property
    def is_on_hold(self) -> bool:
        """Whether an operator has put it on hold."""
        return self.hold_since <= now() < self.hold_until

    def read(self) -> None:
        """Takes what its guest was told since the last time."""
        heard = self.guest.received[self._seen :]
        self._seen += len(heard)
        for one in heard:
            match one.message:
                case ActionNotify(event_type=event, notification_type=kind) if kind is NOTICE:
                    if event in ENDS:
                        self.told, self.was_away = event, not self.is_up
                    elif self.told is not None and event is ENDS[self.told]:
                        self.told = None

    def fall_silent(self) -> None:
        """Its guest does not answer any more, and says nothing."""
        self.read()
        self.changes += 1
        self.answers = False
        self.guest.answers_after_s, self.guest.sends_init = None, False

    def go(self) -> None:
        """It ends, and its socket goes."""
        self.fall_silent()
        if self.is_there:
            self.guest.vanish()
        self.is_there, self.told = False, None

    def come(self) -> None:
        """It is up again; its guest has started anew."""
        self.read()
        self.changes += 1
        self.down_until, self.is_taken, self.answers = -math.inf, False, True
        self.guest.answers_after_s, self.guest.sends_init = 0.0, True
        if not self.is_there:
            self.is_there = True
            self.guest.appear()
        elif not (self.guest.peer.closed or self.guest.peer.host_closed):
            self.guest.send_init()


class ActedFleet:
    """The VMs of a host, and what was seen that must not be.

    Args:
        world: the host.
        guests: the guests of the VMs.
        groups: the members of each group, and how many of them may be unavailable.
    """

    def __init__(
        self,
        world: HostWorld,
        guests: Sequence[ScriptedGuest],
        groups: Mapping[str, tuple[frozenset[str], int]],
    ) -> None:
        self.vms = [Vm(guest) for guest in guests]
        self.broken: list[str] = []
        #: The commands that fail, by their names; they do nothing.
        self.fails: frozenset[str] = frozenset()
        #: Whether a command that the end of the host cuts off has done its work.
        self.works_if_cut_off = False
        #: When which instance's corrective command has ended.
        self._corrected: list[tuple[str, float]] = []
        self._world = world
        self._groups = groups
        self._by_uuid = {vm.guest.uuid: vm for vm in self.vms}
        world.processes.on_start = self._started
        world.processes.on_end = self._ended

    def read(self) -> None:
        """Takes what all guests were told since the last time."""
        for vm in self.vms:
            vm.read()

    def corrected(self, vm: Vm, cuts: Sequence[float]) -> tuple[int, int]:
        """How many corrective commands the history must have of a VM, at least and at most.

        Of one that has ended directly before the host did, nothing may have been written.
        """
        ended = [at for uuid, at in self._corrected if uuid == vm.guest.uuid]
        sure = [at for at in ended if not any(at <= cut <= at + WRITTEN_S for cut in cuts)]
        return len(sure), len(ended)

    # -- the commands -------------------------------------------------------------------------

    def run_of(self, argv: Sequence[str]) -> FakeRun:
        """How a command runs."""
        return FakeRun(exit_code=int(argv[0] in self.fails), delay_s=TAKES_S)

    def _started(self, argv: Sequence[str]) -> None:
        name, uuid = argv
        vm = self._by_uuid[uuid]
        vm.read()
        if vm.command:
            self._breaks(f"{name} of {uuid} while {vm.command} runs")
        if vm.is_on_hold and (name == RESET or not self._was_asked_before(vm)):
            self._breaks(f"{name} of {uuid} on hold")
        if name in _TAKES_DOWN:
            self._judge_groups(name, vm)
            vm.is_taken = vm.is_taken or vm.is_up
        vm.command = name
        if name in _RESTARTS and name not in self.fails and vm.is_there:
            self._restart(vm, forgets=name != "resize")

    def _was_asked_before(self, vm: Vm) -> bool:
        """Whether an operator's action goes on that was begun before the hold."""
        action = self._world.host.actions.get(vm.guest.uuid)
        since = EPOCH.timestamp() + vm.hold_since
        return action is not None and action.record.begun_at <= since

    def _judge_groups(self, name: str, vm: Vm) -> None:
        for group, (members, allowed) in self._groups.items():
            if vm.guest.uuid not in members:
                continue
            others = [self._by_uuid[uuid] for uuid in sorted(members - {vm.guest.uuid})]
            # Of those that are down anyway, too many must not be restarted together.
            counted = [one for one in others if one.is_busy or (vm.is_up and one.is_taken)]
            if len(counted) >= allowed:
                down = ", ".join(one.guest.init.name for one in counted)
                self._breaks(f"{group}: {name} of {vm.guest.init.name}, and {down} down by us")

    def _ended(self, argv: Sequence[str], end: End) -> None:
        name, uuid = argv
        vm = self._by_uuid[uuid]
        vm.read()
        vm.command = ""
        if name == RESET and end is not End.CUT_OFF:
            self._corrected.append((uuid, HOST_EPOCH.timestamp() + now()))
        is_done = end is End.DONE or (end is End.CUT_OFF and self.works_if_cut_off)
        match name:
            case "stop" if is_done:
                vm.go()
            case "pause" if is_done and vm.is_there:
                vm.fall_silent()
                vm.told = None
            case "unpause" if is_done and vm.is_there:
                self._thaw(vm)
            case _:
                vm.is_taken = vm.is_taken and not vm.is_up

    def _restart(self, vm: Vm, *, forgets: bool) -> None:
        vm.fall_silent()
        if forgets:
            vm.told = None
        vm.down_until = now() + TAKES_S + BOOTS_S
        changes = vm.changes

        def is_up() -> None:
            if vm.changes == changes:
                vm.come()

        self._world.after(TAKES_S + BOOTS_S, is_up)

    @staticmethod
    def _thaw(vm: Vm) -> None:
        vm.changes += 1
        vm.answers, vm.is_taken, vm.down_until = True, False, -math.inf
        vm.guest.answers_after_s, vm.guest.sends_init = 0.0, True
        if not (vm.guest.peer.closed or vm.guest.peer.host_closed) and vm.guest.challenges:
            vm.guest.answer_challenge()

    def _breaks(self, what: str) -> None:
        self.broken.append(f"at {now():.3f} s: {what}")
