"""Makes the faults of a schedule happen in a fleet."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.daemon_faults import DaemonFaults
from hbtrio.simulate.fault_kinds import KIND_RULES, Target, Trigger
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.instance_faults import InstanceFaults
from hbtrio.simulate.machine_faults import MachineFaults, Targets
from hbtrio.simulate.observations import AGENT, VIM, Struck
from hbtrio.simulate.process import Process
from hbtrio.simulate.schedule import Fault, Schedule

#: How long before the end of the VIM's window a process that was stopped over its own window of the
#: same vote goes on at the latest, in seconds. The agent's window ends 0.25 s before the VIM's, the
#: host's 3 s, and the guest's 4 s before it: all of them are just over then.
EARLIER_S: Final = {Target.INSTANCE: 3.75, Target.HOST: 2.75, Target.AGENT: 0.0}


class Strikes:
    """Strikes a fleet.

    Args:
        targets: what there is to strike.
        schedule: its faults.
    """

    def __init__(self, targets: Targets, schedule: Schedule) -> None:
        self._targets = targets
        self._faults = schedule.faults
        self._timeline = targets.stage.timeline
        self._observe = targets.stage.observe
        self._instances = InstanceFaults(targets.stage, targets.hosts)
        self._daemons = DaemonFaults(targets.stage)
        self._machines = MachineFaults(targets)

    def plan(self) -> None:
        """Plans all faults."""
        for fault in self._faults:
            target = KIND_RULES[fault.kind].target
            if self._targets.controller is None and target in (Target.AGENT, Target.VIM):
                continue
            self._timeline.at(fault.at_s, partial(self._due, fault))

    # -- when --------------------------------------------------------------------------------------

    def _due(self, fault: Fault) -> None:
        rule = KIND_RULES[fault.kind]
        strike = partial(self._strike, fault)
        if rule.trigger is Trigger.TIME:
            strike()
        elif rule.trigger is Trigger.WINDOW_END:
            self._await_window(fault, rule.target)
        else:
            process = self._process(fault)
            if process is None or not process.alive:
                return
            if fault.effect is not None:
                process.at_effect(fault.effect, strike)
            elif fault.step is not None:
                process.at_step(fault.step, strike)

    def _await_window(self, fault: Fault, target: Target) -> None:
        """Strikes so that the fault is over shortly before the end of the next window."""
        now = self._timeline.now
        earlier_s = EARLIER_S[target]
        end = self._targets.next_end(now + earlier_s, self._concerns(fault)) - earlier_s
        if end == math.inf:
            self._timeline.after(0.5, partial(self._await_window, fault, target))
            return
        over = end - (fault.window_end_s or 0.0)
        began = max(now, over - (fault.for_s or 0.0))
        if over > began:
            aimed = attrs.evolve(fault, for_s=over - began)
            self._timeline.at(began, partial(self._strike, aimed))

    def _concerns(self, fault: Fault) -> Callable[[str], bool]:
        """Says of which instances the votes and notices are at the struck process."""
        match KIND_RULES[fault.kind].target:
            case Target.INSTANCE:
                here = [self._instance(fault)]
            case Target.HOST:
                host = self._host(fault)
                here = [one for one in self._targets.instances if one.place is host]
            case _:
                here = list(self._targets.instances)
        return {one.uuid for one in here}.__contains__

    def _process(self, fault: Fault) -> Process | None:
        match KIND_RULES[fault.kind].target:
            case Target.INSTANCE:
                guest = self._instance(fault).guest
                return None if guest is None else guest.process
            case Target.HOST:
                return self._host(fault).daemon.process
            case _:
                assert self._targets.controller is not None
                return self._targets.controller.daemon.process

    def _instance(self, fault: Fault) -> Instance:
        return self._targets.instances[fault.who % len(self._targets.instances)]

    def _host(self, fault: Fault) -> ComputeHost:
        return self._targets.hosts[fault.who % len(self._targets.hosts)]

    # -- what --------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        who = self._name(fault)
        self._targets.stage.trace.event(who, "FAULT", fault.kind)
        self._observe(Struck(self._timeline.now, fault.kind, who))
        match KIND_RULES[fault.kind].target:
            case Target.INSTANCE:
                self._instances.strike(fault, self._instance(fault))
            case Target.HOST:
                host = self._host(fault)
                if not self._daemons.strike(fault, host.daemon):
                    self._machines.strike_host(fault, host)
            case Target.AGENT:
                assert self._targets.controller is not None
                if not self._daemons.strike(fault, self._targets.controller.daemon):
                    self._machines.strike_controller(fault)
            case Target.VIM:
                self._machines.strike_vim(fault)

    def _name(self, fault: Fault) -> str:
        match KIND_RULES[fault.kind].target:
            case Target.INSTANCE:
                return self._instance(fault).name
            case Target.HOST:
                return self._host(fault).name
            case Target.AGENT:
                return AGENT
            case Target.VIM:
                return VIM
