"""The status of an agent's fleet, and what the agent answers to changes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from hbtrio.wire.operator.drain import DrainsInProgress
from hbtrio.wire.operator.files import FilesLine
from hbtrio.wire.operator.groups import GroupLine
from hbtrio.wire.operator.hold import HoldLine
from hbtrio.wire.operator.host import OverloadLine, PlannedLine, Remaining, RoundEntry
from hbtrio.wire.operator.words import (
    AgentCommandsWord,
    Body,
    CorrectiveWord,
    Count,
    HealthWord,
    LinkWord,
    Seconds,
    Text,
    Time,
    Windows,
)

_DomainName = Annotated[
    Text, Meta(description="libvirt's; empty if its host does not ask libvirt.")
]


class DeliveryLine(Body, frozen=True, kw_only=True):
    """How an agent's messages get to the VIM; the counts are since the agent's start."""

    reachable: bool = True
    fault: Annotated[str, Meta(description="Why the last attempt failed.")] = ""
    waiting: Count = 0
    in_flight: Count = 0
    delivered: Count = 0
    unconfirmed: Count = 0
    undelivered: Count = 0
    retries: Count = 0


class AgentLine(Body, frozen=True, kw_only=True):
    """The agent itself."""

    name: str
    version: str
    started: Time
    vim: Annotated[str | None, Meta(description="The VIM's URL.")] = None
    store_fault: Annotated[str, Meta(description="Why the store can't be written.")] = ""
    store_files_fault: Annotated[
        str, Meta(description="What happened to the store's files: deleted, replaced.")
    ] = ""
    files: FilesLine | None = None
    links_refused: Annotated[Count, Meta(description="Refused connections of hosts.")] = 0
    delivery: DeliveryLine | None = None
    crashes: Annotated[Count, Meta(description="Internal failures; the log has them.")] = 0
    links: Annotated[Count, Meta(description="Hosts that have a link.")] = 0
    host_alarms: Annotated[Count, Meta(description="Mass failures of hosts.")] = 0
    heartbeating: Annotated[Count, Meta(description="Instances that are heartbeating.")] = 0
    on_hold: Annotated[Count, Meta(description="Instances that are on hold.")] = 0
    actions: Annotated[
        dict[str, str], Meta(description="Actions in progress, by the instance's uuid.")
    ] = field(default_factory=dict)


class FleetHostLine(Body, frozen=True, kw_only=True):
    """A host, as its agent knows it."""

    hostname: str
    uuid: str = ""
    link: LinkWord
    down_s: Annotated[
        Seconds | None, Meta(description="Seconds since the link was lost; null while up.")
    ] = None
    version: str = ""
    reports_dropped: Count = 0
    reporting: bool = False
    instances: Annotated[Count, Meta(description="Instances that are bound to it.")]
    heartbeating: Annotated[Count, Meta(description="How many of them are heartbeating.")]
    unregistered: Annotated[
        Count, Meta(description="Instances on it that the VIM has not registered.")
    ] = 0
    held_since: Annotated[Time | None, Meta(description="Since when its alarms are held back.")] = (
        None
    )
    held_why: str = ""
    certificate: Annotated[
        str, Meta(description="Set if the host's certificate expires within 30 days.")
    ] = ""
    conflict: Annotated[str, Meta(description="Another host uses its name.")] = ""
    commands: AgentCommandsWord = ""
    overload: OverloadLine | None = None


class FleetInstanceLine(Body, frozen=True, kw_only=True):
    """An instance: the host it is bound to, and what that host last reported."""

    uuid: str
    hostname: str
    link: Annotated[str, Meta(extra_json_schema={"enum": ["up", "down", "lost", "never"]})] = ""
    reporting: Annotated[bool, Meta(description="Whether the VIM wants its losses reported.")]
    name: Text
    state: str
    why: Text
    hold: Annotated[HoldLine | None, Meta(description="null: it is not on hold.")] = None
    planned: Annotated[
        PlannedLine | None, Meta(description="What the agent has planned; null if nothing is.")
    ] = None
    heartbeating: bool
    health: HealthWord
    interval_ms: Count | None = None
    windows_s: Windows = field(default_factory=dict)
    corrective_action: CorrectiveWord | None = None
    domain: _DomainName = ""
    domain_state: Annotated[
        str, Meta(description="libvirt's state and reason, such as paused: saving.")
    ] = ""
    open: RoundEntry | None = None
    restart_remaining_s: Remaining | None = None


class UnregisteredLine(Body, frozen=True, kw_only=True):
    """An instance that a host reports and the VIM has not registered."""

    uuid: str
    name: Text
    hostname: str
    domain: _DomainName = ""


class FleetStatus(Body, frozen=True, kw_only=True):
    """An agent, its hosts by name, and their instances by uuid."""

    agent: AgentLine
    hosts: tuple[FleetHostLine, ...]
    instances: tuple[FleetInstanceLine, ...]
    unregistered: tuple[UnregisteredLine, ...] = ()
    groups: tuple[GroupLine, ...] = ()
    drains: DrainsInProgress = ()


class AlarmsReply(Body, frozen=True, kw_only=True):
    """How many of a host's alarms that were held back were sent, and how many withdrawn."""

    hostname: str = ""
    sent: Count
    withdrawn: Count


class Forgotten(Body, frozen=True, kw_only=True):
    """A host that was forgotten, and how many instances were bound to it."""

    hostname: str = ""
    instances: Count


class ClockReply(Body, frozen=True, kw_only=True):
    """The clock by which a daemon's requests expire."""

    boot_id: Annotated[str, Meta(description="New for each start of the daemon.")]
    clock_s: Annotated[float, Meta(description="Its CLOCK_BOOTTIME, in seconds.")]


class Refusal(Body, frozen=True, kw_only=True):
    """Why a request was refused."""

    status: Annotated[str, Meta(extra_json_schema={"const": "fail"})] = "fail"
    reason: str
