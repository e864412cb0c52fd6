"""What is observed in a fleet, simulated or real, as plain values in the order of their times.

The checkers of invariants and the counters of sightings read nothing else, so that they can judge
a simulation and, from the events of hosts, the history of an agent and the log of a VIM, a fleet of
real daemons. Who observes, translates: words of events, results and causes are those of
docs/events.md. Instances, hosts and processes have names; the daemons are ``compute-0``, ``agent``,
and a guest has the name of its instance.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs

#: The name of the agent's process.
AGENT: Final = "agent"

#: The name of the VIM.
VIM: Final = "vim"

#: The result of a vote that refuses its event; every other result consents.
REJECT: Final = "reject"


class Condition(StrEnum):
    """Something out of the ordinary that is so for a while."""

    # Of an instance.
    GUEST_STOPPED = "its guest daemon is stopped"
    GUEST_DOWN = "its guest daemon does not run"
    GUEST_LYING = "its guest answers wrongly"
    GUEST_ILL = "its guest reports ill health"
    CHANNEL_DISTURBED = "its channel is cut, held back or replayed"
    VM_STALLED = "it does not run, and libvirt does not know"
    VM_PAUSED = "it is paused"
    VM_SAVING = "it is being saved"
    VM_MIGRATING = "it is migrating"
    VM_HUNG = "it hangs for good"
    VM_GONE = "it has no QEMU"
    STARVED = "its guest daemon has work and gets no processor"

    # Of a process: a host's or the agent's daemon.
    STOPPED = "it is stopped"
    DOWN = "it does not run"
    DISK_BAD = "its disk is full or slow"

    # Of a host.
    LINK_DOWN = "its link to the agent is cut or held back"
    LIBVIRT_SILENT = "its libvirt does not answer"

    # Of the VIM.
    VIM_AWAY = "it refuses connections, or is slow or silent"


#: An instance that is so can't be expected to answer its challenges in time.
DISTURBANCES: Final = (
    Condition.GUEST_STOPPED,
    Condition.GUEST_DOWN,
    Condition.GUEST_LYING,
    Condition.CHANNEL_DISTURBED,
    Condition.VM_STALLED,
    Condition.VM_PAUSED,
    Condition.VM_SAVING,
    Condition.VM_MIGRATING,
    Condition.VM_HUNG,
    Condition.VM_GONE,
    Condition.STARVED,
)


class Owner(StrEnum):
    """Who acts on an instance."""

    VIM = "the VIM"
    OPERATOR = "an operator"


class Purpose(StrEnum):
    """Why a host runs a command on an instance."""

    CORRECTIVE = "to correct a failure"
    ACTION = "for an operator's action"


class Resource(StrEnum):
    """What a scope has to give back."""

    TASK = "task"
    DESCRIPTOR = "descriptor"
    CHILD = "child process"


@attrs.frozen
class Observation:
    """Something that happened.

    Args:
        at_s: when, in seconds from the start of the run.
    """

    at_s: float


@attrs.frozen
class Struck(Observation):
    """A fault has struck: its kind, and the name of whom."""

    kind: str
    who: str


@attrs.frozen
class Began(Observation):
    """A condition has begun; it may overlap with another of the same."""

    condition: Condition
    who: str


@attrs.frozen
class Over(Observation):
    """A condition that has begun is over."""

    condition: Condition
    who: str


@attrs.frozen
class Placed(Observation):
    """An instance runs on this host from now on."""

    instance: str
    host: str


@attrs.frozen
class Grouped(Observation):
    """A host or the agent starts with a group.

    Args:
        host: the host, or the agent.
        most: how many of its members may be unavailable.
        max_delay_s: how long a corrective action waits for the others at most.
        members: those of an agent's group; all instances of a host are in the group of that.
    """

    host: str
    most: int
    max_delay_s: float
    members: tuple[str, ...] = ()


@attrs.frozen
class ProcessStarted(Observation):
    """A daemon was started."""

    process: str


@attrs.frozen
class Crashed(Observation):
    """A programming error reached a supervisor or the end of a process."""

    process: str
    error: str


@attrs.frozen
class Leftover(Observation):
    """Something is still there although the scope that it belongs to ended at ``over_s``."""

    process: str
    what: Resource
    name: str
    over_s: float


@attrs.frozen
class Measured(Observation):
    """How many of something a process holds, and how many it may."""

    process: str
    what: str
    value: float
    bound: float


@attrs.frozen
class Status(Observation):
    """Whether an instance heartbeats, or a host is linked, in the end of a run."""

    who: str
    well: bool
    detail: str = ""


@attrs.frozen
class Reported(Observation):
    """A host has reported an event of an instance; ``cause`` is that of ``not-acted``."""

    host: str
    instance: str
    kind: str
    cause: str = ""


@attrs.frozen
class Asked(Observation):
    """A vote or notice was accepted from its requester.

    Args:
        request: its id.
        event: that it is about.
        action: the requester's id for all votes and notices of one action.
        vote: a notice, if not.
        answer_by_s: until when the requester waits.
        owner: the requester.
    """

    request: str
    instance: str
    event: str
    action: str
    vote: bool
    answer_by_s: float
    owner: Owner = Owner.VIM


@attrs.frozen
class RejectArrived(Observation):
    """A guest's reject has arrived at a process: it lies in its socket, read or not."""

    process: str
    request: str


@attrs.frozen
class Decided(Observation):
    """A process has concluded a vote or notice; ``overridden``: somebody decided over a reject."""

    process: str
    request: str
    result: str
    overridden: bool = False


@attrs.frozen
class Verdict(Observation):
    """A verdict has reached its requester."""

    request: str
    result: str


@attrs.frozen
class Recorded(Observation):
    """The history has a line about a vote or notice.

    Args:
        request: its id.
        result: how it ended.
        overridden: whether somebody decided over a reject.
        by_group: whether the rule of a group of the agent has rejected it.
    """

    request: str
    result: str
    overridden: bool = False
    by_group: bool = False


@attrs.frozen
class Notified(Observation):
    """A notice has reached a guest."""

    instance: str
    event: str
    action: str


@attrs.frozen
class ActionBegan(Observation):
    """Somebody owns an instance.

    Args:
        action: its name.
        instance: the instance.
        owner: whose it is.
        voted: whether it began with a vote, and not with a notice.
        host: the host that carries it out; "": the one on which the instance is.
    """

    action: str
    instance: str
    owner: Owner
    voted: bool = True
    host: str = ""


@attrs.frozen
class ActionEnded(Observation):
    """An action is over, or called off."""

    action: str


@attrs.frozen
class CommandBegan(Observation):
    """A host has started a command on an instance; ``name`` is reboot, stop or log."""

    command: str
    instance: str
    host: str
    name: str
    purpose: Purpose = Purpose.CORRECTIVE


@attrs.frozen
class CommandEnded(Observation):
    """A command has ended; ``outcome`` is a word of docs/acting.md, or ``killed`` with its host."""

    command: str
    outcome: str


@attrs.frozen
class CarriedOut(Observation):
    """A process has carried out a command that it was to begin by ``begin_by_s``."""

    process: str
    request: str
    begin_by_s: float
