"""What a fault does to a host, the controller or the VIM: their power, links, disks and libvirt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs

from hbtrio.lab.vim_server import Mood
from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.controller import Controller
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fault_spans import lasts
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.observations import AGENT, VIM, Condition
from hbtrio.simulate.pipe import Strain
from hbtrio.simulate.places import AGENT_LINK, Stage
from hbtrio.simulate.schedule import Fault
from hbtrio.simulate.vim import Vim
from hbtrio.simulate.vm_changes import Ending

#: A slow disk stalls for so long with each sync, and a slow VIM with each answer, in seconds.
_SLOW_S: Final = 2.0

#: How long a link that was cut is not there again, in seconds.
_RECONNECTS_S: Final = 0.5

_SPLIT: Final = Strain(split=1.0)
_SHORT: Final = Strain(short=1.0)


@attrs.frozen
class Targets:
    """What there is to strike in a fleet.

    Args:
        stage: what all parts use.
        controller: the agent's machine; None: there is no agent.
        hosts: the compute hosts.
        instances: the instances.
        vim: the VIM; None: there is none.
        next_end: returns when the next open vote after a time ends that concerns some instances.
    """

    stage: Stage
    controller: Controller | None
    hosts: Sequence[ComputeHost]
    instances: Sequence[Instance]
    vim: Vim | None
    next_end: Callable[[float, Callable[[str], bool]], float]


class MachineFaults:
    """Strikes machines.

    Args:
        targets: what there is to strike.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._stage = targets.stage
        self._timeline = targets.stage.timeline

    def strike_host(self, fault: Fault, host: ComputeHost) -> None:
        """Strikes a host, but not its daemon."""
        for_s = fault.for_s or 0.0
        after = partial(self._timeline.after, for_s)
        link = self._stage.network.route(host.machine.name, AGENT_LINK)
        match fault.kind:
            case Kind.CUT_POWER_OF_HOST:
                self._cut_power(host, for_s)
            case Kind.CUT_LINK:
                link.cut()
                lasts(self._stage, Condition.LINK_DOWN, host.name, _RECONNECTS_S)
            case Kind.CLOG_LINK | Kind.HALF_OPEN_LINK:
                half = fault.kind is Kind.HALF_OPEN_LINK
                to_server = not half or fault.who % 2 == 0
                link.clog(to_server=to_server, to_client=not half or not to_server)
                after(link.unclog)
                lasts(self._stage, Condition.LINK_DOWN, host.name, for_s)
            case Kind.SPLIT_LINK_WRITES | Kind.SHORT_LINK_READS:
                link.strain(_SPLIT if fault.kind is Kind.SPLIT_LINK_WRITES else _SHORT)
                after(link.strain)
            case Kind.STEP_HOST_CLOCK:
                host.machine.step_wall_clock(fault.by_s or 0.0)
            case Kind.FULL_HOST_DISK:
                host.disk.fill()
                after(host.disk.free)
                lasts(self._stage, Condition.DISK_BAD, host.name, for_s)
            case Kind.SLOW_HOST_DISK:
                host.disk.slow(_SLOW_S)
                after(host.disk.slow)
                lasts(self._stage, Condition.DISK_BAD, host.name, for_s)
            case Kind.FAILING_COMMANDS | Kind.HANGING_COMMANDS:
                host.commands_fault = "fail" if fault.kind is Kind.FAILING_COMMANDS else "hang"
                after(partial(setattr, host, "commands_fault", ""))
            case Kind.HANG_VMS_OF_HOST:
                for instance in self._targets.instances:
                    if instance.place is host:
                        instance.hang()
            case Kind.HANGING_LIBVIRT:
                host.libvirt.hang()
                after(host.libvirt.go_on)
                lasts(self._stage, Condition.LIBVIRT_SILENT, host.name, for_s)
            case Kind.RESTART_LIBVIRT:
                host.libvirt.stop()
                after(host.libvirt.restart)
                lasts(self._stage, Condition.LIBVIRT_SILENT, host.name, for_s)

    def _cut_power(self, host: ComputeHost, for_s: float) -> None:
        """The host and its VMs are gone; both come back by themselves."""
        lost = [one for one in self._targets.instances if one.place is host]
        host.daemon.kill()
        host.disk.power_cut()
        host.history_cut()
        host.libvirt.stop()
        for instance in lost:
            instance.end(Ending.CRASHED)

        def boot() -> None:
            host.reboot()
            host.libvirt.restart()
            host.daemon.start()
            for instance in lost:
                instance.boot(host)

        self._timeline.after(for_s, boot)
        lasts(self._stage, Condition.LIBVIRT_SILENT, host.name, for_s)

    def strike_controller(self, fault: Fault) -> None:
        """Strikes the controller, but not the agent."""
        for_s = fault.for_s or 0.0
        after = partial(self._timeline.after, for_s)
        controller = self._targets.controller
        assert controller is not None
        match fault.kind:
            case Kind.CUT_POWER_OF_AGENT:
                controller.daemon.kill()
                controller.disk.power_cut()
                controller.history_cut()
                after(controller.daemon.start)
            case Kind.STEP_AGENT_CLOCK:
                controller.machine.step_wall_clock(fault.by_s or 0.0)
            case Kind.FULL_AGENT_DISK:
                controller.disk.fill()
                after(controller.disk.free)
                lasts(self._stage, Condition.DISK_BAD, AGENT, for_s)
            case Kind.SLOW_AGENT_DISK:
                controller.disk.slow(_SLOW_S)
                after(controller.disk.slow)
                lasts(self._stage, Condition.DISK_BAD, AGENT, for_s)

    def strike_vim(self, fault: Fault) -> None:
        """Strikes the VIM."""
        for_s = fault.for_s or 0.0
        vim = self._targets.vim
        assert vim is not None
        match fault.kind:
            case Kind.VIM_DOWN:
                vim.go_down()
                self._timeline.after(for_s, vim.come_up)
            case Kind.VIM_SILENT:
                vim.be(Mood.STALL)
                self._timeline.after(for_s, partial(vim.be, Mood.USUAL))
            case Kind.VIM_SLOW:
                self._slow_vim(vim, self._timeline.now + for_s)
        lasts(self._stage, Condition.VIM_AWAY, VIM, for_s)

    def _slow_vim(self, vim: Vim, until_s: float) -> None:
        """Answers what has come every few seconds."""
        vim.be(Mood.USUAL)
        if self._timeline.now < until_s:
            self._timeline.after(0.01, partial(vim.be, Mood.BUSY))
            self._timeline.after(_SLOW_S, partial(self._slow_vim, vim, until_s))
