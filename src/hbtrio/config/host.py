"""``host.toml``: the configuration of the host daemon.

Every key has a default, so an empty or missing file is a working configuration. The heartbeat
defaults are those of the deployed C++ host daemon. The limits keep one VM from using up the time or
the memory of the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Literal

import attrs

from hbtrio.config.endpoints import connect_to, is_local
from hbtrio.config.groups import GroupSettings, group_tables, names_needed
from hbtrio.config.instances import (
    InstancePolicy,
    InstanceRules,
    InstanceSettings,
    glob_faults,
    needs_name,
)
from hbtrio.config.notify import NotifySettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.config.rules import Ruled
from hbtrio.config.settings import (
    SOCKET_PATH_BYTES,
    choice,
    command,
    file_patterns,
    flag,
    group_names,
    number,
    path,
    table,
    tables,
    word,
)
from hbtrio.config.source import Fault, shown
from hbtrio.config.windows import VetoSettings, WindowSettings
from hbtrio.wire.vocabulary import ActionName

#: Where the packages install the file.
DEFAULT_HOST_CONFIG: Final = "/etc/hbtrio/host.toml"

LogTarget = Literal["stderr", "syslog"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
AgentMayRun = Literal["configured", "any"]
LibvirtUse = Literal["auto", "on", "off"]

# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults
_UUID_CHARS = 36


@attrs.frozen(kw_only=True)
class ControlSettings(Ruled):
    """The groups that may use the control socket, besides root and the daemon's user.

    Both empty: whoever can connect may act. :mod:`hbtrio.api.control` applies them.
    """

    look: tuple[str, ...] = group_names()
    act: tuple[str, ...] = group_names()

    def _disjoint(self) -> Iterator[str]:
        for name in self.look:
            if name in self.act:
                place = ("look", self.look.index(name))
                yield Fault(f"look: {shown(name)} is in act too, which includes looking", place)

    rules: ClassVar = (_disjoint,)


@attrs.frozen(kw_only=True)
class HeartbeatSettings(Ruled):
    """When a VM counts as lost, and how often channels are checked.

    An interval that a VM advertises is clamped to ``interval_min_ms`` .. ``interval_max_ms``.
    """

    #: Missed heartbeats in a row that are tolerated; the next one is a loss.
    failure_threshold: int = number(1, 0, 60, "misses")
    rescan_s: float = number(180.0, 1, 86_400, "s")
    reconnect_silent_s: float = number(120.0, 1, 86_400, "s")
    #: For how long ill health is only shown after heartbeating began.
    grace_s: float = number(0.0, 0, 86_400, "s")
    #: How long a guest may take to begin, or to come back; 0: the RESTART of its profile.
    absent_after_s: float = number(0.0, 0, 86_400, "s")
    interval_min_ms: int = number(400, 400, 60_000, "ms")
    interval_max_ms: int = number(60_000, 400, 600_000, "ms")

    def _in_order(self) -> Iterator[str]:
        if self.interval_min_ms > self.interval_max_ms:
            yield Fault(
                f"interval_min_ms ({self.interval_min_ms}) must be at most "
                f"interval_max_ms ({self.interval_max_ms})",
                "interval_min_ms",
                "interval_max_ms",
            )

    rules: ClassVar = (_in_order,)


@attrs.frozen(kw_only=True)
class LimitSettings:
    """Limits for what a VM advertises and sends.

    Windows that a VM advertises are clamped to 1 .. the maximum of their kind.
    """

    vote_max_s: int = number(600, 1, 86_400, "s")
    notice_max_s: int = number(600, 1, 86_400, "s")
    restart_max_s: int = number(3600, 1, 86_400, "s")
    #: At least 1056, the largest message of a deployed guest.
    line_bytes: int = number(4096, 1056, 65_536, "bytes")
    bytes_per_s: int = number(8192, 1056, 1_048_576, "bytes/s")
    burst_bytes: int = number(8192, 1056, 1_048_576, "bytes")
    channels: int = number(20_000, 1, 100_000, "VMs")


@attrs.frozen(kw_only=True)
class LibvirtSettings(Ruled):
    """Whether libvirt is asked for the state of each VM, and which libvirt."""

    #: ``auto``: in use once it has answered; ``on``: without its answer nothing is done to a VM.
    enabled: LibvirtUse = choice("auto", LibvirtUse)
    uri: str = word("qemu:///system", r"[!-~]{1,1024}", "a URI without blanks")
    #: Whether the metadata of a domain may say what ``[instances]`` says.
    metadata: bool = flag(False)

    def _has_source(self) -> Iterator[str]:
        if self.metadata and self.enabled == "off":
            yield Fault("metadata: is libvirt's, but enabled is off", "metadata")

    rules: ClassVar = (_has_source,)


@attrs.frozen(kw_only=True)
class CorrectiveCommands:
    """Commands for VMs that are lost or request a corrective action; an empty one runs nothing."""

    reboot: tuple[str, ...] = command("uuid", "reason", "action", "state")
    #: Instead of ``reboot``, for a VM whose QEMU has just failed.
    reboot_gone: tuple[str, ...] = command("uuid", "reason", "action", "state", key="reboot-gone")
    stop: tuple[str, ...] = command("uuid", "reason", "action", "state")
    log: tuple[str, ...] = command("uuid", "reason", "action", "state")
    timeout_s: float = number(60.0, 0.1, 3600, "s")
    per_hour: int = number(3, 1, 3600, "per VM and hour")


@attrs.frozen(kw_only=True)
class CorrectiveSettings:
    """What is asked before a corrective command runs, and whether any does."""

    #: Exit status 0 goes ahead; else the first line it prints is the reason not to.
    confirm: tuple[str, ...] = command("uuid", "reason", "action", "state")
    #: A VM whose disk requests or sent packets grow in this time is not reset; 0 is off.
    no_io_for_s: float = number(0.0, 0, 3600, "s")
    dry_run: bool = flag(False)


@attrs.frozen(kw_only=True)
class BrakeSettings:
    """When so many VMs fail at once that the host is suspected and no corrective action is run."""

    share: float = number(0.5, 0, 1, over=True)
    #: The brake is off with fewer VMs than this.
    minimum: int = number(3, 1, 100_000, "VMs")


@attrs.frozen(kw_only=True)
class ActionCommands:
    """The commands of ``hbtrio ctl act`` if the operator gives none.

    Operators of the agent can't give any, unless :class:`AgentLinkSettings` permits it.
    """

    stop: tuple[str, ...] = command("uuid")
    reboot: tuple[str, ...] = command("uuid")
    pause: tuple[str, ...] = command("uuid")
    unpause: tuple[str, ...] = command("uuid")
    suspend: tuple[str, ...] = command("uuid")
    resume: tuple[str, ...] = command("uuid")
    resize: tuple[str, ...] = command("uuid")
    live_migrate: tuple[str, ...] = command("uuid", key="live-migrate")
    cold_migrate: tuple[str, ...] = command("uuid", key="cold-migrate")
    timeout_s: float = number(600.0, 0.1, 86_400, "s")

    def of(self, name: ActionName) -> tuple[str, ...]:
        """Returns the command of an action; empty if there is none."""
        argv: tuple[str, ...] = getattr(self, name.name.lower())
        return argv


@attrs.frozen
class GivenCommand:
    """A command that an agent gives for an action, checked as one of the file is.

    Raises:
        ValueError: it is faulty.
    """

    argv: tuple[str, ...] = command("uuid")


@attrs.frozen(kw_only=True)
class AgentLinkSettings(Ruled):
    """The link to the agent on the controller, which decides whose losses are reported."""

    #: Empty: there is no agent.
    connect: str = connect_to()
    #: This host's uuid in the cloud; without it the agent can't ask the VIM about the host.
    host_uuid: str = word(
        "", r"([0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?", "a uuid, or empty"
    )
    #: What the agent may have run for an action: the command of ``[actions]``, or any.
    commands: AgentMayRun = choice("configured", AgentMayRun)
    #: Mutual TLS over TCP: all three or none.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))

    def _whole_tls(self) -> Iterator[str]:
        tls = (self.certificate, self.key, self.authority)
        if any(tls) and not all(tls):
            fault = "certificate, key and authority go together"
            yield Fault(fault, "certificate", "key", "authority")

    def _not_in_clear(self) -> Iterator[str]:
        # The agent commands this host, so it has to be authenticated.
        if self.connect and not is_local(self.connect) and not self.certificate:
            fault = "connect: certificate, key and authority are needed for this address"
            yield Fault(fault, "connect")

    rules: ClassVar = (_whole_tls, _not_in_clear)


@attrs.frozen(kw_only=True)
class HostConfig(Ruled):
    """The host daemon's settings.

    Raises:
        ValueError: a value is out of range, or a channel's path would be too long.
    """

    channel_dir: str = path("/var/lib/libvirt/qemu")
    channel_patterns: tuple[str, ...] = file_patterns(
        ("cgcs.heartbeat.{uuid}.sock", "wrs.heartbeat.agent.0.{uuid}.sock")
    )
    control_socket: str = path("/run/hbtrio/host.sock", socket=True)
    control_mode: str = word("0660", "0?[0-7]{3}", "three octal digits in quotes")
    control: ControlSettings = table(ControlSettings)
    #: The events file; "-" is standard output, empty is none.
    events: str = path("", instead=("", "-"))
    #: The directory for what is remembered across restarts; empty is systemd's, or none.
    state_dir: str = path("", instead=("",))
    #: For how long the history in it is kept.
    history_days: float = number(30.0, 0.01, 3650, "days")
    #: For how long SIGTERM lets actions go on that are in progress.
    stop_grace_s: float = number(60.0, 0, 3600, "s")
    #: Empty: the system's host name, which the caller looks up.
    hostname: str = word("", r"[A-Za-z0-9._-]{0,253}", "a host name, or empty")
    log: LogTarget = choice("stderr", LogTarget)
    log_format: LogFormat = choice("text", LogFormat)
    log_level: LogLevel = choice("info", LogLevel)
    heartbeat: HeartbeatSettings = table(HeartbeatSettings)
    limits: LimitSettings = table(LimitSettings)
    windows: WindowSettings = table(WindowSettings)
    veto: VetoSettings = table(VetoSettings)
    libvirt: LibvirtSettings = table(LibvirtSettings)
    instances: Mapping[str, InstanceSettings] = tables(
        glob_faults, "names or uuids, with or without wildcards"
    )
    groups: Mapping[str, GroupSettings] = group_tables()
    corrective_commands: CorrectiveCommands = table(CorrectiveCommands, key="corrective-commands")
    corrective: CorrectiveSettings = table(CorrectiveSettings)
    brake: BrakeSettings = table(BrakeSettings)
    actions: ActionCommands = table(ActionCommands)
    agent: AgentLinkSettings = table(AgentLinkSettings)
    observe: ObserveSettings = table(ObserveSettings)
    notify: NotifySettings = table(NotifySettings)

    @property
    def control_permissions(self) -> int:
        """``control_mode`` as a number for ``chmod``."""
        return int(self.control_mode, 8)

    def _channels_in_reach(self) -> Iterator[str]:
        for pattern in self.channel_patterns:
            name = pattern.replace("{uuid}", "0" * _UUID_CHARS)
            size = len(os.path.join(self.channel_dir, name).encode())
            if size > SOCKET_PATH_BYTES:
                yield Fault(
                    f"channel_dir and channel_patterns make a path of {size} bytes, "
                    f"a unix socket path has at most {SOCKET_PATH_BYTES}",
                    "channel_dir",
                    "channel_patterns",
                )
                return

    def _names_known(self) -> Iterator[str]:
        if self.libvirt.enabled == "off":
            why = "libvirt knows the names, but [libvirt] enabled is off; use a uuid"
            for key in filter(needs_name, self.instances):
                yield Fault(f"instances: {shown(key)}: {why}", ("instances", key))
            for group, index, entry in names_needed(self.groups):
                place = ("groups", group, "members", index)
                yield Fault(f"groups.{group}: {shown(entry)}: {why}", place)

    rules: ClassVar = (_channels_in_reach, _names_known)

    def instance_rules(self) -> InstanceRules:
        """Returns what finds out what holds for an instance."""
        default = InstancePolicy(
            watch=True,
            corrective="on",
            grace_s=self.heartbeat.grace_s,
            absent_after_s=self.heartbeat.absent_after_s,
            no_io_for_s=self.corrective.no_io_for_s,
            per_hour=self.corrective_commands.per_hour,
            vote_max_s=self.limits.vote_max_s,
            notice_max_s=self.limits.notice_max_s,
            restart_max_s=self.limits.restart_max_s,
        )
        return InstanceRules(self.instances, default, reads_metadata=self.libvirt.metadata)
