"""Describes faults in plain words, for those who read what a failing run needed."""

from __future__ import annotations

from hbtrio.simulate.fault_kinds import KIND_RULES, Target
from hbtrio.simulate.schedule import Fault, Schedule


def describe(fault: Fault, schedule: Schedule) -> str:
    """Returns a line such as ``31.25 s: the daemon of compute-1 is stopped (SIGSTOP) for 2.5 s``.

    Args:
        fault: what to describe.
        schedule: the test case that it belongs to, which says how many hosts and VMs there are.
    """
    rule = KIND_RULES[fault.kind]
    words = rule.words.format(who=struck(fault, schedule))
    if fault.by_s is not None:
        words += f" {abs(fault.by_s):g} s {'back' if fault.by_s < 0 else 'forward'}"
    if fault.for_s is not None:
        words += f" for {fault.for_s:g} s"
    if fault.effect is not None:
        words += f", right after its {ordinal(fault.effect)} effect from then on"
    if fault.step is not None:
        words += f", before its {ordinal(fault.step)} task step from then on"
    if fault.window_end_s is not None:
        words += f", until {fault.window_end_s:g} s before the end of the next window"
    return f"{fault.at_s:g} s: {words}"


def struck(fault: Fault, schedule: Schedule) -> str:
    """Returns the name of whom a fault strikes: ``vm2``, ``compute-1``, ``the agent``."""
    match KIND_RULES[fault.kind].target:
        case Target.INSTANCE:
            return instance_name(fault.who % schedule.vms)
        case Target.HOST:
            return host_name(fault.who % schedule.hosts)
        case Target.AGENT:
            return "the agent"
        case Target.VIM:
            return "the VIM"


def instance_name(number: int) -> str:
    """Returns the name of an instance, counted from 0."""
    return f"vm{number}"


def host_name(number: int) -> str:
    """Returns the name of a host, counted from 0."""
    return f"compute-{number}"


def ordinal(number: int) -> str:
    """Returns ``1st``, ``2nd``, ``3rd``, ``11th``."""
    ending = "th" if number % 100 in (11, 12, 13) else _ENDINGS.get(number % 10, "th")
    return f"{number}{ending}"


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
