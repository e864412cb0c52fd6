"""Each kind of fault, alone in a small fleet: it strikes, it shows, and all is well afterwards."""

from __future__ import annotations

import pytest

from hbtrio.simulate.fault_kinds import KIND_RULES, Kind, Target, Trigger
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.observations import (
    Began,
    Condition,
    Observation,
    Over,
    ProcessStarted,
    Struck,
)
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.watch import Watch

#: When the fault comes, and for how long it lasts, in seconds.
AT_S = 30.0
FOR_S = 4.0

#: What hangs is not over by itself.
FOR_GOOD = {kind for kind in Kind if kind.startswith("hang-vm")}

#: What is observed of a fault; nothing of those that no daemon is expected to notice.
SHOWN: dict[Kind, Condition | None] = {
    Kind.STOP_GUEST: Condition.GUEST_STOPPED,
    Kind.STOP_GUEST_AT_WINDOW_END: Condition.GUEST_STOPPED,
    Kind.STOP_HOST: Condition.STOPPED,
    Kind.STOP_HOST_AT_EFFECT: Condition.STOPPED,
    Kind.STOP_HOST_AT_WINDOW_END: Condition.STOPPED,
    Kind.STUTTER_HOST: Condition.STOPPED,
    Kind.STOP_AGENT: Condition.STOPPED,
    Kind.STOP_AGENT_AT_EFFECT: Condition.STOPPED,
    Kind.STOP_AGENT_AT_WINDOW_END: Condition.STOPPED,
    Kind.KILL_GUEST: Condition.GUEST_DOWN,
    Kind.KILL_GUEST_AT_STEP: Condition.GUEST_DOWN,
    Kind.RESTART_GUEST: Condition.GUEST_DOWN,
    Kind.KILL_HOST: Condition.DOWN,
    Kind.KILL_HOST_AT_STEP: Condition.DOWN,
    Kind.KILL_HOST_AT_EFFECT: Condition.DOWN,
    Kind.RESTART_HOST: Condition.DOWN,
    Kind.CUT_POWER_OF_HOST: Condition.DOWN,
    Kind.KILL_AGENT: Condition.DOWN,
    Kind.KILL_AGENT_AT_STEP: Condition.DOWN,
    Kind.KILL_AGENT_AT_EFFECT: Condition.DOWN,
    Kind.RESTART_AGENT: Condition.DOWN,
    Kind.CUT_POWER_OF_AGENT: Condition.DOWN,
    Kind.STALL_VM: Condition.VM_STALLED,
    Kind.PAUSE_VM: Condition.VM_PAUSED,
    Kind.HANG_VM: Condition.VM_HUNG,
    Kind.HANG_VM_AND_KILL_HOST: Condition.VM_HUNG,
    Kind.HANG_VM_AND_PAUSE_IT: Condition.VM_HUNG,
    Kind.HANG_VM_AND_LIBVIRT: Condition.VM_HUNG,
    Kind.HANG_VMS_OF_HOST: Condition.VM_HUNG,
    Kind.LYING_GUEST: Condition.GUEST_LYING,
    Kind.ILL_GUEST: Condition.GUEST_ILL,
    Kind.CUT_LINK: Condition.LINK_DOWN,
    Kind.CLOG_LINK: Condition.LINK_DOWN,
    Kind.HALF_OPEN_LINK: Condition.LINK_DOWN,
    Kind.SPLIT_LINK_WRITES: None,
    Kind.SHORT_LINK_READS: None,
    Kind.CUT_CHANNEL: Condition.CHANNEL_DISTURBED,
    Kind.CLOG_CHANNEL: Condition.CHANNEL_DISTURBED,
    Kind.HALF_OPEN_CHANNEL: Condition.CHANNEL_DISTURBED,
    Kind.SPLIT_CHANNEL_WRITES: None,
    Kind.SHORT_CHANNEL_READS: None,
    Kind.REPLAY_CHANNEL: Condition.CHANNEL_DISTURBED,
    Kind.STEP_GUEST_CLOCK: None,
    Kind.STEP_HOST_CLOCK: None,
    Kind.STEP_AGENT_CLOCK: None,
    Kind.VIM_DOWN: Condition.VIM_AWAY,
    Kind.VIM_SLOW: Condition.VIM_AWAY,
    Kind.VIM_SILENT: Condition.VIM_AWAY,
    Kind.FULL_HOST_DISK: Condition.DISK_BAD,
    Kind.SLOW_HOST_DISK: Condition.DISK_BAD,
    Kind.FULL_AGENT_DISK: Condition.DISK_BAD,
    Kind.SLOW_AGENT_DISK: Condition.DISK_BAD,
    Kind.FAILING_COMMANDS: None,
    Kind.HANGING_COMMANDS: None,
    Kind.HANGING_LIBVIRT: Condition.LIBVIRT_SILENT,
    Kind.RESTART_LIBVIRT: Condition.LIBVIRT_SILENT,
}


def fault_of(kind: Kind) -> Fault:
    numbers = {
        "for_s": FOR_S,
        "effect": 3,
        "step": 20,
        "window_end_s": 0.1,
        "by_s": -3600.0,
    }
    known = Fault.numbers_of(kind)
    return Fault(at_s=AT_S, kind=kind, **{name: numbers[name] for name in known})  # type: ignore[arg-type]


def struck_fleet(kind: Kind, until_s: float) -> list[Observation]:
    """What is observed of a fleet with one VM, one host and one fault."""
    seen: list[Observation] = []
    schedule = Schedule(seed=5, minutes=10.0, vms=1, hosts=1, faults=(fault_of(kind),))
    watch = Watch(Bounds())

    def see(observation: Observation) -> None:
        seen.append(observation)
        watch.see(observation)

    Fleet(schedule, see).run(until_s)
    result = watch.finish(until_s, 5)
    assert result.violations == ()
    assert result.faults == {kind: 1}
    return seen


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if KIND_RULES[kind].trigger is Trigger.TIME]
)
def test_a_fault_at_its_time(kind: Kind) -> None:
    seen = struck_fleet(kind, AT_S + 25.0)
    [struck] = [one for one in seen if isinstance(one, Struck)]
    assert struck == Struck(AT_S, kind, struck.who)
    who = {Target.INSTANCE: "vm0", Target.HOST: "compute-0", Target.AGENT: "agent"}
    assert struck.who == who.get(KIND_RULES[kind].target, "vim")
    shown = SHOWN[kind]
    if shown is None:
        return
    began = next(
        one
        for one in seen
        if isinstance(one, Began) and one.condition is shown and one.at_s >= AT_S
    )
    assert began.who == ("vm0" if kind is Kind.HANG_VMS_OF_HOST else struck.who)
    assert began.at_s - AT_S < 5.0
    if kind not in FOR_GOOD:
        assert any(
            isinstance(one, Over) and one.condition is shown and one.at_s > AT_S for one in seen
        )


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if KIND_RULES[kind].trigger is not Trigger.TIME]
)
def test_a_fault_that_waits_for_its_trigger(kind: Kind) -> None:
    seen = struck_fleet(kind, 240.0)
    struck = next(one for one in seen if isinstance(one, Struck))
    assert struck.at_s > AT_S
    shown = SHOWN[kind]
    assert any(isinstance(one, Began) and one.condition is shown for one in seen)


def test_a_host_is_killed_beside_the_hanging_of_its_vm() -> None:
    seen = struck_fleet(Kind.HANG_VM_AND_KILL_HOST, AT_S + 25.0)
    [hung, down, started] = [
        one.at_s
        for one in seen
        if one.at_s >= AT_S
        and (
            (isinstance(one, Began) and one.condition in (Condition.VM_HUNG, Condition.DOWN))
            or (isinstance(one, ProcessStarted) and one.process == "compute-0")
        )
    ]
    assert abs(hung - down) <= 5.0
    assert started == pytest.approx(max(hung, down, AT_S) + FOR_S, abs=5.0)


@pytest.mark.parametrize(
    ("kind", "beside", "earliest_s"),
    [
        (Kind.HANG_VM_AND_PAUSE_IT, Condition.VM_PAUSED, 0.0),
        (Kind.HANG_VM_AND_LIBVIRT, Condition.LIBVIRT_SILENT, -5.0),
    ],
)
def test_something_else_happens_beside_the_hanging_of_a_vm(
    kind: Kind, beside: Condition, earliest_s: float
) -> None:
    seen = struck_fleet(kind, AT_S + 25.0)
    spans = [one for one in seen if isinstance(one, Began | Over) and one.at_s >= AT_S]
    hung = next(one.at_s for one in spans if one.condition is Condition.VM_HUNG)
    [began, over] = [one.at_s for one in spans if one.condition is beside]
    assert earliest_s <= began - hung <= 5.0
    assert over - began == pytest.approx(FOR_S)


def test_every_kind_is_tried() -> None:
    assert set(SHOWN) == set(Kind)


def test_a_fault_aimed_at_the_end_of_a_window_is_over_shortly_before_it() -> None:
    seen = struck_fleet(Kind.STOP_AGENT_AT_WINDOW_END, 240.0)
    [over] = [
        one.at_s for one in seen if isinstance(one, Over) and one.condition is Condition.STOPPED
    ]
    ends = [one.answer_by_s for one in seen if hasattr(one, "answer_by_s")]
    assert min(abs(end - 0.1 - over) for end in ends) < 1e-6
