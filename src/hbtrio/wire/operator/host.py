"""The status of a host and its instances."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from hbtrio.wire.operator.drain import DrainsInProgress
from hbtrio.wire.operator.events import EventLine
from hbtrio.wire.operator.files import FilesLine
from hbtrio.wire.operator.groups import GroupLine
from hbtrio.wire.operator.hold import HoldLine
from hbtrio.wire.operator.words import (
    AgentCommandsWord,
    Body,
    CorrectiveWord,
    Count,
    EventWord,
    HealthWord,
    Milliseconds,
    Seconds,
    Text,
    Time,
    Windows,
    WindowWord,
)

Remaining = Annotated[float, Meta(description="Seconds until it ends.")]


class EventsFaultLine(Body, frozen=True, kw_only=True):
    """A host that can't write its events: since when, why, and how many were lost."""

    since: Time
    why: str
    lost: Count


class OverloadLine(Body, frozen=True, kw_only=True):
    """A host daemon that is late: since when, and whether it has raised the alarm."""

    since: Time
    alarm: Annotated[bool, Meta(description="Late for 10 s or more.")]


class LibvirtLine(Body, frozen=True, kw_only=True):
    """What a host knows of the states of its VMs."""

    state: Annotated[
        str,
        Meta(
            description="off: libvirt is not asked, or has never answered and need not.",
            extra_json_schema={"enum": ["answers", "silent", "off"]},
        ),
    ]
    since: Annotated[Time | None, Meta(description="Since when it answers or is silent.")] = None
    why: Annotated[str, Meta(description="Why it gives no answer.")] = ""
    domains: Count = 0


class DomainLine(Body, frozen=True, kw_only=True):
    """What libvirt knows of an instance."""

    name: Annotated[Text, Meta(description="libvirt's; the guest has a name of its own.")]
    state: Annotated[str, Meta(description="State and reason, such as paused: saving.")]
    since: Time


class HostLinkLine(Body, frozen=True, kw_only=True):
    """A host's link to its agent."""

    state: Annotated[
        str,
        Meta(
            description="none: no agent is configured.",
            extra_json_schema={"enum": ["up", "down", "none"]},
        ),
    ]
    endpoint: str = ""
    agent: Annotated[str, Meta(description="The agent's name, once it was linked.")] = ""
    since: Annotated[Time | None, Meta(description="Since when it is up or down.")] = None
    why: Annotated[str, Meta(description="Why it is down.")] = ""
    certificate: Annotated[
        str, Meta(description="Set if the agent's certificate expires within 30 days.")
    ] = ""


class MemoryLine(Body, frozen=True, kw_only=True):
    """What a host remembers across its restarts."""

    state: Annotated[
        str,
        Meta(
            description="none: there is no state directory.",
            extra_json_schema={"enum": ["kept", "failing", "none"]},
        ),
    ]
    path: Annotated[str, Meta(description="The file.")] = ""
    why: Annotated[str, Meta(description="Why nothing is remembered now.")] = ""
    lost: Annotated[Count, Meta(description="Entries that the history misses.")] = 0


class HostLine(Body, frozen=True, kw_only=True):
    """The host itself."""

    hostname: str
    version: str
    started: Time
    channels: Count = 0
    heartbeating: Annotated[Count, Meta(description="How many instances are heartbeating.")]
    late: Annotated[bool, Meta(description="The daemon is not scheduled on time.")] = False
    late_ticks: Count = 0
    pacer_worst_lateness_ms: Milliseconds = 0.0
    crashes: Annotated[Count, Meta(description="Internal failures; the log has them.")] = 0
    corrective_commands_run: Count = 0
    corrective_commands_failed: Count = 0
    corrective_commands_held_back: Count = 0
    alarms: Annotated[Count, Meta(description="Mass failures.")] = 0
    brake_closed: Annotated[
        bool, Meta(description="After a mass failure no corrective command runs.")
    ] = False
    on_hold: Annotated[Count, Meta(description="How many instances are on hold.")] = 0
    overload: OverloadLine | None = None
    events_fault: EventsFaultLine | None = None
    link: HostLinkLine | None = None
    libvirt: LibvirtLine | None = None
    memory: MemoryLine | None = None
    files: FilesLine | None = None
    agent_commands: AgentCommandsWord = ""
    actions: Annotated[
        dict[str, str], Meta(description="Actions in progress, by the instance's uuid.")
    ] = field(default_factory=dict)


class PolicyLine(Body, frozen=True, kw_only=True):
    """What holds for an instance; host.toml and its domain's metadata may set it."""

    watch: bool = True
    corrective: Annotated[
        str,
        Meta(
            description="Which corrective commands may run. unknown: libvirt has not told it yet.",
            extra_json_schema={"enum": ["on", "log", "off", "unknown"]},
        ),
    ] = "on"
    grace_s: Seconds = 0.0
    absent_after_s: Annotated[Seconds, Meta(description="0: the RESTART of its profile.")] = 0.0
    no_io_for_s: Seconds = 0.0
    per_hour: Count = 0
    vote_max_s: Count = 0
    notice_max_s: Count = 0
    restart_max_s: Count = 0
    places: Annotated[
        dict[str, str], Meta(description="Where each key is set that is not as for all.")
    ] = field(default_factory=dict)
    fault: Annotated[str, Meta(description="Why its newest metadata can't be used.")] = ""


class RoundEntry(Body, frozen=True, kw_only=True):
    """A vote or notice that is open on an instance."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": ["vote", "notice"]})]
    event: EventWord
    window: WindowWord = ""
    remaining_s: Remaining
    extended: Annotated[
        str, Meta(description="By whom its window was extended: extended by 30 s by orders.")
    ] = ""


class PlannedLine(Body, frozen=True, kw_only=True):
    """A planned action on an instance."""

    id: Annotated[str, Meta(description="That of its drain.")]
    action: str
    not_before: Annotated[Time, Meta(description="When its guest is asked first.")]
    before: Annotated[Time, Meta(description="When it is performed without its vote, or given up.")]
    who: Annotated[Text, Meta(description="Who asked for it.")]
    state: Annotated[str, Meta(description="As that of an instance in a drain.")]
    reason: Annotated[Text, Meta(description="Why it is in that state.")] = ""
    gives_up: Annotated[
        bool, Meta(description="Whether it is not performed at before if its guest rejects.")
    ] = False


class InstanceLine(Body, frozen=True, kw_only=True):
    """An instance: its heartbeat, what it advertised, what is open on it."""

    uuid: str
    name: Text
    state: str
    why: Text
    hold: Annotated[HoldLine | None, Meta(description="Missing if it is not on hold.")] = None
    connected: bool = False
    heartbeating: bool = False
    reporting: bool = False
    health: HealthWord
    health_reason: Text = ""
    beats: Count
    missed: Count
    late_answers: Count = 0
    faulty_messages: Count = 0
    round_trip_ms: Annotated[
        Milliseconds | None, Meta(description="From the last challenge to its answer.")
    ] = None
    interval_ms: Count = 0
    windows_s: Windows = field(default_factory=dict)
    corrective_action: CorrectiveWord = ""
    open: RoundEntry | None = None
    restart_remaining_s: Remaining | None = None
    last: Annotated[EventLine | None, Meta(description="The last event.")] = None
    path: str = ""
    domain: Annotated[
        DomainLine | None, Meta(description="Missing if libvirt does not know it, or is not asked.")
    ] = None
    owner: Annotated[
        str, Meta(description="Whose action is in progress; no corrective command runs then.")
    ] = ""
    policy: Annotated[
        PolicyLine | None, Meta(description="Missing if nothing is set for some instances only.")
    ] = None
    not_acted: Annotated[
        str, Meta(description="Why no corrective command runs for a failed instance at present.")
    ] = ""
    planned: Annotated[PlannedLine | None, Meta(description="Missing if no action is planned.")] = (
        None
    )


class Status(Body, frozen=True, kw_only=True):
    """A host and all its instances."""

    host: HostLine
    instances: tuple[InstanceLine, ...]
    groups: tuple[GroupLine, ...] = ()
    drains: DrainsInProgress = ()
