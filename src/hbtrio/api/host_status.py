"""A host's status, as its operator API reports it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import hbtrio
from hbtrio.api.common import files_line
from hbtrio.api.drains import planned_line
from hbtrio.api.holds import hold_line
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.reports import event_line
from hbtrio.wire.operator import (
    DomainLine,
    EventsFaultLine,
    HostLine,
    HostLinkLine,
    InstanceLine,
    LibvirtLine,
    MemoryLine,
    OverloadLine,
    PolicyLine,
    RoundEntry,
)
from hbtrio.wire.vocabulary import WindowKind

#: The state of an instance that is not watched.
NOT_WATCHED: Final = "not watched"


def host_status(host: Host, now: float) -> HostLine:
    """The host itself.

    Args:
        host: the host.
        now: trio's time.
    """
    fault = None if host.events is None else host.events.fault
    return HostLine(
        hostname=host.config.hostname,
        version=hbtrio.__version__,
        started=host.started_at.isoformat(timespec="seconds"),
        channels=len(host.channels),
        heartbeating=host.heartbeating,
        late=host.guard.is_late(now),
        late_ticks=host.guard.late_ticks,
        pacer_worst_lateness_ms=round(host.pacer.worst_lateness_s * 1000, 3),
        crashes=host.supervisor.crashes,
        corrective_commands_run=host.corrective.ran,
        corrective_commands_failed=host.corrective.failed,
        corrective_commands_held_back=host.mass_failures.held,
        alarms=host.mass_failures.alarms,
        brake_closed=host.corrective.brake.closed,
        on_hold=sum(1 for _ in host.holds),
        overload=None
        if host.overload.since is None
        else OverloadLine(
            since=host.overload.since.isoformat(timespec="seconds"), alarm=host.overload.alarm
        ),
        events_fault=None
        if fault is None
        else EventsFaultLine(
            since=fault.since.isoformat(timespec="seconds"),
            why=fault.reason,
            lost=fault.lost,
        ),
        link=_link(host),
        libvirt=_libvirt(host, now),
        memory=_memory(host.memory),
        files=files_line(host.files),
        agent_commands=host.config.agent.commands if host.config.agent.connect else "",
        actions={uuid: str(action.name) for uuid, action in host.actions.items()},
    )


def _link(host: Host) -> HostLinkLine:
    link = host.link
    if not link.endpoint:
        return HostLinkLine(state="none")
    since = host.started_at if link.since is None else link.since
    return HostLinkLine(
        state="up" if link.is_up else "down",
        endpoint=link.endpoint,
        agent=link.agent,
        since=since.isoformat(timespec="seconds"),
        why=link.reason,
        certificate=host.files.peer_warning("the agent"),
    )


def _libvirt(host: Host, now: float) -> LibvirtLine:
    watch = host.domains.watch
    if watch is None or not watch.in_use:
        return LibvirtLine(state="off")
    return LibvirtLine(
        state="answers" if watch.answers else "silent",
        since=time_of(host, watch.since, now),
        why=watch.fault,
        domains=watch.count,
    )


def _domain(host: Host, uuid: str, now: float) -> DomainLine | None:
    domain = host.domains.of(uuid)
    if domain is None:
        return None
    since = time_of(host, domain.since, now)
    return DomainLine(name=domain.name, state=domain.state.words, since=since)


def time_of(host: Host, at: float, now: float) -> str:
    """The time of day of a time on trio's clock."""
    return (host.reports.now() - timedelta(seconds=now - at)).isoformat(timespec="seconds")


def _memory(memory: HostMemory) -> MemoryLine:
    if not memory.is_kept:
        return MemoryLine(state="none", why=memory.fault)
    state = "failing" if memory.fault else "kept"
    return MemoryLine(state=state, path=memory.path, why=memory.fault, lost=memory.lost)


def instance_status(host: Host, channel: Channel, now: float) -> InstanceLine:
    """One instance: its heartbeat, what it advertised, what is open on it, and its domain."""
    beat = channel.heartbeat
    profile = beat.profile
    current = channel.round
    last = channel.reports.last
    why_not = host.corrective.why_not(channel.uuid)
    return InstanceLine(
        uuid=channel.uuid,
        name=profile.name,
        state=beat.state.shown,
        why=channel.why,
        hold=hold_line(host.holds.of(channel.uuid)),
        connected=beat.connected,
        heartbeating=channel.heartbeating,
        reporting=beat.reporting,
        health=str(beat.health),
        health_reason=beat.health_reason,
        beats=beat.beats,
        missed=beat.missed,
        late_answers=beat.late_answers,
        faulty_messages=channel.link.faulty,
        round_trip_ms=channel.round_trip_ms,
        interval_ms=round(profile.interval_s * 1000),
        windows_s={str(kind): profile.window_s(kind) for kind in WindowKind},
        corrective_action=str(profile.corrective_action),
        open=None
        if current is None
        else RoundEntry(
            kind=current.kind,
            event=str(current.event),
            window=str(current.window.kind),
            remaining_s=round(current.window.remaining_s(now), 3),
            extended=current.extensions.words,
        ),
        restart_remaining_s=None
        if channel.restart.window is None
        else round(channel.restart.window.remaining_s(now), 3),
        last=None if last is None else event_line(last),
        path=channel.path,
        domain=_domain(host, channel.uuid, now),
        owner=host.owners.words(channel.uuid),
        policy=_policy(host, channel.uuid),
        not_acted="" if why_not is None else why_not.words,
        planned=planned_line(host.drains.runs.planned(channel.uuid)),
    )


def left_out_status(host: Host, uuid: str, now: float) -> InstanceLine:
    """One instance that is not watched."""
    return InstanceLine(
        uuid=uuid,
        name="",
        state=NOT_WATCHED,
        why=host.watched.why(uuid),
        hold=hold_line(host.holds.of(uuid)),
        health="unknown",
        beats=0,
        missed=0,
        path=host.watched.left_out[uuid].path,
        domain=_domain(host, uuid, now),
        policy=_policy(host, uuid),
    )


def _policy(host: Host, uuid: str) -> PolicyLine | None:
    policy, fault = host.domains.policies.of(uuid), host.domains.policies.fault(uuid)
    if not policy.places and not fault and host.domains.policies.is_told(uuid):
        return None
    return PolicyLine(
        watch=policy.watch,
        corrective=host.domains.policies.corrective(uuid).value,
        grace_s=policy.grace_s,
        absent_after_s=policy.absent_after_s,
        no_io_for_s=policy.no_io_for_s,
        per_hour=policy.per_hour,
        vote_max_s=policy.vote_max_s,
        notice_max_s=policy.notice_max_s,
        restart_max_s=policy.restart_max_s,
        places=dict(policy.places),
        fault=fault,
    )
