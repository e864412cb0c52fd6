"""Makes the faults of a schedule happen to real processes.

The faults are the simulator's, as far as there is something real that they happen to. A stop that
ends shortly before the end of a window is aimed at the next vote or notice that somebody waits for.
"""

from __future__ import annotations

import math
import random
from typing import Final

import attrs
import trio

from chaos.fleet import ChaosFleet
from chaos.host import ChaosHost
from chaos.victim import Victim
from hbtrio.lab.vim_server import Mood
from hbtrio.simulate.fault_kinds import KIND_RULES, Kind, Target, Trigger
from hbtrio.simulate.observations import AGENT, VIM, Began, Condition, Over, Struck
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.strikes import EARLIER_S

#: What can be done to real processes without a machine of their own.
KINDS: Final = (
    Kind.STOP_GUEST,
    Kind.STOP_GUEST_AT_WINDOW_END,
    Kind.STOP_HOST,
    Kind.STOP_HOST_AT_WINDOW_END,
    Kind.STUTTER_HOST,
    Kind.STOP_AGENT,
    Kind.STOP_AGENT_AT_WINDOW_END,
    Kind.KILL_GUEST,
    Kind.KILL_HOST,
    Kind.KILL_AGENT,
    Kind.RESTART_GUEST,
    Kind.RESTART_HOST,
    Kind.RESTART_AGENT,
    Kind.PAUSE_VM,
    Kind.HANG_VM,
    Kind.ILL_GUEST,
    Kind.CUT_LINK,
    Kind.CLOG_LINK,
    Kind.HALF_OPEN_LINK,
    Kind.CUT_CHANNEL,
    Kind.CLOG_CHANNEL,
    Kind.HALF_OPEN_CHANNEL,
    Kind.VIM_DOWN,
    Kind.VIM_SLOW,
    Kind.VIM_SILENT,
    Kind.FAILING_COMMANDS,
    Kind.HANGING_COMMANDS,
    Kind.HANGING_LIBVIRT,
)

#: How long a link or channel that was cut is not there again, in seconds, at most.
_RECONNECTS_S: Final = 5.0

#: How long a slow VIM takes for each answer, in seconds.
_SLOW_S: Final = 2.0


class RealStrikes:
    """Strikes a fleet.

    Args:
        fleet: the fleet.
        schedule: its faults.
    """

    def __init__(self, fleet: ChaosFleet, schedule: Schedule) -> None:
        self._fleet = fleet
        self._schedule = schedule
        self._draw = random.Random(f"{schedule.seed}/strikes")

    async def run(self) -> None:
        """Makes all faults happen; returns when the last one is over."""
        async with trio.open_nursery() as nursery:
            for fault in self._schedule.faults:
                await self._fleet.until(fault.at_s)
                nursery.start_soon(self._due, fault)

    async def _due(self, fault: Fault) -> None:
        rule = KIND_RULES[fault.kind]
        if rule.trigger is not Trigger.WINDOW_END:
            await self._strike(fault)
            return
        earlier_s = EARLIER_S[rule.target]
        while self._fleet.now() < self._schedule.quiet_s:
            now = self._fleet.now()
            end_s = self._fleet.next_end(now + earlier_s) - earlier_s
            if end_s < math.inf:
                over_s = end_s - (fault.window_end_s or 0.0)
                began_s = max(now, over_s - (fault.for_s or 0.0))
                if over_s > began_s:
                    await self._fleet.until(began_s)
                    await self._strike(attrs.evolve(fault, for_s=over_s - self._fleet.now()))
                return
            await trio.sleep(0.5)

    async def _strike(self, fault: Fault) -> None:
        target = KIND_RULES[fault.kind].target
        for_s = max(0.0, fault.for_s or 0.0)
        match target:
            case Target.INSTANCE:
                await self._strike_vm(fault, for_s)
            case Target.HOST:
                await self._strike_host(fault, self._host(fault), for_s)
            case Target.AGENT:
                self._struck(fault, AGENT)
                await self._strike_daemon(fault, self._fleet.victim, for_s)
            case Target.VIM:
                await self._strike_vim(fault, for_s)

    def _struck(self, fault: Fault, who: str) -> None:
        self._fleet.records.observe(Struck(self._fleet.now(), fault.kind, who))

    def _host(self, fault: Fault) -> ChaosHost:
        hosts = self._fleet.hosts
        if fault.kind in (Kind.CUT_LINK, Kind.CLOG_LINK, Kind.HALF_OPEN_LINK):
            hosts = self._fleet.linked_hosts
        return hosts[fault.who % len(hosts)]

    async def _strike_vm(self, fault: Fault, for_s: float) -> None:
        vm = self._fleet.vm(fault.who)
        self._struck(fault, vm.name)
        match fault.kind:
            case Kind.STOP_GUEST | Kind.STOP_GUEST_AT_WINDOW_END:
                await vm.stop_guest_for(for_s)
            case Kind.KILL_GUEST | Kind.RESTART_GUEST:
                await vm.lose_guest_for(for_s, by_kill=fault.kind is Kind.KILL_GUEST)
            case Kind.PAUSE_VM:
                if vm.pause():
                    await trio.sleep(for_s)
                    vm.resume()
            case Kind.HANG_VM:
                vm.hang()
            case Kind.ILL_GUEST:
                await vm.ill_for(for_s)
            case Kind.CUT_CHANNEL:
                await vm.cut_channel(_RECONNECTS_S)
            case Kind.CLOG_CHANNEL | Kind.HALF_OPEN_CHANNEL:
                half = fault.kind is Kind.HALF_OPEN_CHANNEL
                to_guest = not half or fault.who % 2 == 0
                await vm.disturb_channel(for_s, to_guest=to_guest, to_host=not half or not to_guest)

    async def _strike_daemon(self, fault: Fault, victim: Victim, for_s: float) -> bool:
        match fault.kind:
            case (
                Kind.STOP_HOST
                | Kind.STOP_HOST_AT_WINDOW_END
                | Kind.STOP_AGENT
                | Kind.STOP_AGENT_AT_WINDOW_END
            ):
                await victim.stop_for(for_s)
            case Kind.STUTTER_HOST:
                await victim.stutter_for(for_s, self._draw)
            case Kind.KILL_HOST | Kind.KILL_AGENT:
                await victim.kill_for(for_s)
            case Kind.RESTART_HOST | Kind.RESTART_AGENT:
                await victim.restart_for(for_s)
            case _:
                return False
        return True

    async def _strike_host(self, fault: Fault, host: ChaosHost, for_s: float) -> None:
        self._struck(fault, host.name)
        if await self._strike_daemon(fault, host.victim, for_s):
            return
        match fault.kind:
            case Kind.CUT_LINK:
                assert host.relay is not None
                self._begin(Condition.LINK_DOWN, host.name)
                host.relay.cut()
                await trio.sleep(0.5)
                self._over(Condition.LINK_DOWN, host.name)
            case Kind.CLOG_LINK | Kind.HALF_OPEN_LINK:
                assert host.relay is not None
                half = fault.kind is Kind.HALF_OPEN_LINK
                both = ((host.relay.to_agent, True), (host.relay.to_host, False))
                gates = [gate for gate, even in both if not half or even == (fault.who % 2 == 0)]
                self._begin(Condition.LINK_DOWN, host.name)
                for gate in gates:
                    gate.hold()
                await trio.sleep(for_s)
                for gate in gates:
                    gate.release()
                self._over(Condition.LINK_DOWN, host.name)
            case Kind.FAILING_COMMANDS | Kind.HANGING_COMMANDS:
                name = "commands-fail" if fault.kind is Kind.FAILING_COMMANDS else "commands-hang"
                file = host.file(name)
                file.touch()
                await trio.sleep(for_s)
                file.unlink(missing_ok=True)
            case Kind.HANGING_LIBVIRT:
                self._begin(Condition.LIBVIRT_SILENT, host.name)
                host.scene.libvirt.hangs()
                await trio.sleep(for_s)
                host.scene.libvirt.goes_on()
                self._over(Condition.LIBVIRT_SILENT, host.name)

    async def _strike_vim(self, fault: Fault, for_s: float) -> None:
        self._struck(fault, VIM)
        server = self._fleet.vim_server
        self._begin(Condition.VIM_AWAY, VIM)
        match fault.kind:
            case Kind.VIM_DOWN:
                server.go_down()
                await trio.sleep(for_s)
                server.come_up()
            case Kind.VIM_SILENT:
                server.mood = Mood.STALL
                await trio.sleep(for_s)
                server.mood = Mood.USUAL
            case Kind.VIM_SLOW:
                end_s = self._fleet.now() + for_s
                while self._fleet.now() < end_s:
                    server.mood = Mood.BUSY
                    await trio.sleep(_SLOW_S)
                    server.mood = Mood.USUAL  # what has come is answered
                    await trio.sleep(0.01)
        self._over(Condition.VIM_AWAY, VIM)

    def _begin(self, condition: Condition, who: str) -> None:
        self._fleet.records.observe(Began(self._fleet.now(), condition, who))

    def _over(self, condition: Condition, who: str) -> None:
        self._fleet.records.observe(Over(self._fleet.now(), condition, who))
