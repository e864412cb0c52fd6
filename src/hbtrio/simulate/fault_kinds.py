"""The kinds of faults that the simulator knows: whom each strikes, how it is drawn and described.

A kind is one way in which something outside the program goes wrong. Its row says which of its
numbers are drawn, and from what range; :mod:`hbtrio.simulate.schedule` draws them and
:mod:`hbtrio.simulate.fault_words` describes a fault. What a fault does is the simulated world's
matter.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final

import attrs


class Target(Enum):
    """What a fault strikes; the fault's ``who`` chooses among those that there are."""

    INSTANCE = "instance"
    HOST = "host"
    AGENT = "agent"
    VIM = "VIM"


class Trigger(Enum):
    """What makes a fault strike, once its time has come."""

    #: Its time alone.
    TIME = "time"
    #: The n-th effect of the process from then on: a send, a close, a request or a command.
    EFFECT = "effect"
    #: The n-th task step of the process from then on.
    STEP = "step"
    #: The end of the next window that closes: the fault *ends* so long before it.
    WINDOW_END = "window_end_s"


class Kind(StrEnum):
    """A kind of fault, by its name in a file of faults."""

    STOP_GUEST = "stop-guest"
    STOP_GUEST_AT_WINDOW_END = "stop-guest-at-window-end"
    STOP_HOST = "stop-host"
    STOP_HOST_AT_EFFECT = "stop-host-at-effect"
    STOP_HOST_AT_WINDOW_END = "stop-host-at-window-end"
    STUTTER_HOST = "stutter-host"
    STOP_AGENT = "stop-agent"
    STOP_AGENT_AT_EFFECT = "stop-agent-at-effect"
    STOP_AGENT_AT_WINDOW_END = "stop-agent-at-window-end"

    KILL_GUEST = "kill-guest"
    KILL_GUEST_AT_STEP = "kill-guest-at-step"
    KILL_HOST = "kill-host"
    KILL_HOST_AT_STEP = "kill-host-at-step"
    KILL_HOST_AT_EFFECT = "kill-host-at-effect"
    KILL_AGENT = "kill-agent"
    KILL_AGENT_AT_STEP = "kill-agent-at-step"
    KILL_AGENT_AT_EFFECT = "kill-agent-at-effect"
    RESTART_GUEST = "restart-guest"
    RESTART_HOST = "restart-host"
    RESTART_AGENT = "restart-agent"
    CUT_POWER_OF_HOST = "cut-power-of-host"
    CUT_POWER_OF_AGENT = "cut-power-of-agent"

    STALL_VM = "stall-vm"
    PAUSE_VM = "pause-vm"
    HANG_VM = "hang-vm"
    HANG_VM_AND_KILL_HOST = "hang-vm-and-kill-host"
    HANG_VM_AND_PAUSE_IT = "hang-vm-and-pause-it"
    HANG_VM_AND_LIBVIRT = "hang-vm-and-libvirt"
    HANG_VMS_OF_HOST = "hang-vms-of-host"
    LYING_GUEST = "lying-guest"
    ILL_GUEST = "ill-guest"

    CUT_LINK = "cut-link"
    CLOG_LINK = "clog-link"
    HALF_OPEN_LINK = "half-open-link"
    SPLIT_LINK_WRITES = "split-link-writes"
    SHORT_LINK_READS = "short-link-reads"
    CUT_CHANNEL = "cut-channel"
    CLOG_CHANNEL = "clog-channel"
    HALF_OPEN_CHANNEL = "half-open-channel"
    SPLIT_CHANNEL_WRITES = "split-channel-writes"
    SHORT_CHANNEL_READS = "short-channel-reads"
    REPLAY_CHANNEL = "replay-channel"

    STEP_GUEST_CLOCK = "step-guest-clock"
    STEP_HOST_CLOCK = "step-host-clock"
    STEP_AGENT_CLOCK = "step-agent-clock"

    VIM_DOWN = "vim-down"
    VIM_SLOW = "vim-slow"
    VIM_SILENT = "vim-silent"

    FULL_HOST_DISK = "full-host-disk"
    SLOW_HOST_DISK = "slow-host-disk"
    FULL_AGENT_DISK = "full-agent-disk"
    SLOW_AGENT_DISK = "slow-agent-disk"
    FAILING_COMMANDS = "failing-commands"
    HANGING_COMMANDS = "hanging-commands"
    HANGING_LIBVIRT = "hanging-libvirt"
    RESTART_LIBVIRT = "restart-libvirt"


@attrs.frozen
class Span:
    """A range, in seconds, of which a part is drawn first, and then a number in that part.

    Args:
        edges: at least two, ascending. Each part between two of them is as likely as the others.
            So short durations are as frequent as long ones.
    """

    edges: tuple[float, ...]

    @property
    def low(self) -> float:
        """The smallest number."""
        return self.edges[0]

    @property
    def high(self) -> float:
        """The largest number."""
        return self.edges[-1]


#: A stop, from one that no deadline notices to one that all of them do.
STOP: Final = Span((0.02, 0.3, 3.0, 15.0))
#: How long something is down before it is started again or comes back.
DOWN: Final = Span((0.1, 3.0, 15.0))
#: How long a machine needs after a power cut: not less than the store counts upon (``REBOOT_S``).
REBOOT: Final = Span((20.0, 25.0, 40.0))
#: A disturbance of a peer or a device that lasts over several beats.
LONG: Final = Span((0.3, 5.0, 30.0))
#: A stop that is aimed at a window is over in the 250 ms after its end: so long before those end.
WINDOW_END: Final = Span((0.0, 0.25))
#: How far a wall clock is set forward or back.
CLOCK: Final = Span((0.5, 60.0, 7200.0))


@attrs.frozen
class KindRule:
    """A kind's row.

    Args:
        target: whom it strikes.
        words: what happens, with ``{who}`` for the struck. Without its duration and trigger.
        lasts: from what range its duration is drawn; None: it has none.
        trigger: what makes it strike.
        most: the largest number that is drawn for ``EFFECT`` and ``STEP``.
        steps_clock: whether the seconds by which a clock is set are drawn.
        gap_s: the mean time from one to the next in a run that uses this kind, in seconds. A
            constant of the kind: were it a share, one more kind would change what others draw.
    """

    target: Target
    words: str
    lasts: Span | None = STOP
    trigger: Trigger = Trigger.TIME
    most: int = 0
    steps_clock: bool = False
    gap_s: float = 200.0


_G, _H, _A, _V = Target.INSTANCE, Target.HOST, Target.AGENT, Target.VIM
_EFFECT, _STEP, _END = Trigger.EFFECT, Trigger.STEP, Trigger.WINDOW_END
_STOPPED: Final = "the daemon of {who} is stopped (SIGSTOP)"
_KILLED: Final = "the daemon of {who} is killed (SIGKILL)"
_CLOCK: Final = "the wall clock of {who} is set"
_LINK: Final = "the link between {who} and the agent"
_CHANNEL: Final = "the channel between {who} and its host"

KIND_RULES: Final[dict[Kind, KindRule]] = {
    Kind.STOP_GUEST: KindRule(_G, _STOPPED),
    Kind.STOP_GUEST_AT_WINDOW_END: KindRule(_G, _STOPPED, trigger=_END, gap_s=60.0),
    Kind.STOP_HOST: KindRule(_H, _STOPPED),
    Kind.STOP_HOST_AT_EFFECT: KindRule(_H, _STOPPED, trigger=_EFFECT, most=6),
    Kind.STOP_HOST_AT_WINDOW_END: KindRule(_H, _STOPPED, trigger=_END, gap_s=60.0),
    Kind.STUTTER_HOST: KindRule(
        _H, "the daemon of {who} is stopped again and again, and runs a few ms in between"
    ),
    Kind.STOP_AGENT: KindRule(_A, _STOPPED),
    Kind.STOP_AGENT_AT_EFFECT: KindRule(_A, _STOPPED, trigger=_EFFECT, most=6),
    Kind.STOP_AGENT_AT_WINDOW_END: KindRule(_A, _STOPPED, trigger=_END, gap_s=60.0),
    Kind.KILL_GUEST: KindRule(_G, _KILLED, DOWN),
    Kind.KILL_GUEST_AT_STEP: KindRule(_G, _KILLED, DOWN, _STEP, 200),
    Kind.KILL_HOST: KindRule(_H, _KILLED, DOWN),
    Kind.KILL_HOST_AT_STEP: KindRule(_H, _KILLED, DOWN, _STEP, 400),
    Kind.KILL_HOST_AT_EFFECT: KindRule(_H, _KILLED, DOWN, _EFFECT, 50),
    Kind.KILL_AGENT: KindRule(_A, _KILLED, DOWN),
    Kind.KILL_AGENT_AT_STEP: KindRule(_A, _KILLED, DOWN, _STEP, 400),
    Kind.KILL_AGENT_AT_EFFECT: KindRule(_A, _KILLED, DOWN, _EFFECT, 20),
    Kind.RESTART_GUEST: KindRule(_G, "the daemon of {who} is ended in order (SIGTERM)", DOWN),
    Kind.RESTART_HOST: KindRule(_H, "the daemon of {who} is ended in order (SIGTERM)", DOWN),
    Kind.RESTART_AGENT: KindRule(_A, "the daemon of {who} is ended in order (SIGTERM)", DOWN),
    Kind.CUT_POWER_OF_HOST: KindRule(
        _H, "{who} loses its power, with what was not synced to its disk", REBOOT
    ),
    Kind.CUT_POWER_OF_AGENT: KindRule(
        _A, "the machine of {who} loses its power, with what was not synced to its disk", REBOOT
    ),
    Kind.STALL_VM: KindRule(_G, "{who} does not run, and its clocks stand still with it"),
    Kind.PAUSE_VM: KindRule(_G, "{who} is paused in libvirt by somebody who tells nobody", LONG),
    Kind.HANG_VM: KindRule(_G, "{who} hangs for good", None),
    Kind.HANG_VM_AND_KILL_HOST: KindRule(
        _G,
        "{who} hangs for good, and within 5 s before or after that its host's daemon is killed",
        DOWN,
        gap_s=100.0,
    ),
    Kind.HANG_VM_AND_PAUSE_IT: KindRule(
        _G,
        "{who} hangs for good, and is paused in libvirt 2 to 5 s after that, which libvirt's "
        "events tell 3 s late",
        LONG,
        gap_s=100.0,
    ),
    Kind.HANG_VM_AND_LIBVIRT: KindRule(
        _G,
        "{who} hangs for good, and within 5 s before or after that libvirt on its host does not "
        "answer",
        LONG,
        gap_s=100.0,
    ),
    Kind.HANG_VMS_OF_HOST: KindRule(_H, "all VMs of {who} hang for good", None),
    Kind.LYING_GUEST: KindRule(
        _G, "the guest of {who} answers with wrong numbers, odd ids and garbage", LONG
    ),
    Kind.ILL_GUEST: KindRule(_G, "the guest of {who} reports ill health", LONG),
    Kind.CUT_LINK: KindRule(_H, f"{_LINK} is reset", None),
    Kind.CLOG_LINK: KindRule(_H, f"{_LINK} holds back what is sent, both ways", LONG),
    Kind.HALF_OPEN_LINK: KindRule(_H, f"{_LINK} holds back what is sent, one way", LONG),
    Kind.SPLIT_LINK_WRITES: KindRule(_H, f"{_LINK} splits each write", LONG),
    Kind.SHORT_LINK_READS: KindRule(_H, f"{_LINK} gives a few bytes for each read", LONG),
    Kind.CUT_CHANNEL: KindRule(_G, f"{_CHANNEL} is reset", None),
    Kind.CLOG_CHANNEL: KindRule(_G, f"{_CHANNEL} holds back what is sent, both ways"),
    Kind.HALF_OPEN_CHANNEL: KindRule(_G, f"{_CHANNEL} holds back what is sent, one way"),
    Kind.SPLIT_CHANNEL_WRITES: KindRule(_G, f"{_CHANNEL} splits each write", LONG),
    Kind.SHORT_CHANNEL_READS: KindRule(_G, f"{_CHANNEL} gives a few bytes for each read", LONG),
    Kind.REPLAY_CHANNEL: KindRule(
        _G, "the port of {who} gives old bytes to the next that connects, from inside a line", None
    ),
    Kind.STEP_GUEST_CLOCK: KindRule(_G, _CLOCK, None, steps_clock=True),
    Kind.STEP_HOST_CLOCK: KindRule(_H, _CLOCK, None, steps_clock=True),
    Kind.STEP_AGENT_CLOCK: KindRule(_A, _CLOCK, None, steps_clock=True),
    Kind.VIM_DOWN: KindRule(_V, "{who} refuses connections", LONG),
    Kind.VIM_SLOW: KindRule(_V, "{who} takes seconds for each answer", LONG),
    Kind.VIM_SILENT: KindRule(_V, "{who} takes requests and never answers", LONG),
    Kind.FULL_HOST_DISK: KindRule(_H, "the disk of {who} is full", LONG),
    Kind.SLOW_HOST_DISK: KindRule(_H, "the disk of {who} takes seconds for each sync", LONG),
    Kind.FULL_AGENT_DISK: KindRule(_A, "the disk of {who} is full", LONG),
    Kind.SLOW_AGENT_DISK: KindRule(_A, "the disk of {who} takes seconds for each sync", LONG),
    Kind.FAILING_COMMANDS: KindRule(_H, "the commands of {who} fail", LONG),
    Kind.HANGING_COMMANDS: KindRule(_H, "the commands of {who} hang", LONG),
    Kind.HANGING_LIBVIRT: KindRule(_H, "libvirt on {who} does not answer", LONG),
    Kind.RESTART_LIBVIRT: KindRule(_H, "libvirt on {who} is restarted", DOWN),
}
