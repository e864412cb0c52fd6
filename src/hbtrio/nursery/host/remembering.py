"""Decides what of a host is remembered: its instances as they change, and its history."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping

import trio

from hbtrio.config.host import HostConfig
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.recall import Recall
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.nursery.host.vetoes import Vetoes
from hbtrio.policy.veto import VetoRule
from hbtrio.store.host_records import ActionRecord, KnownInstance, Recollection
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.link_messages import MAX_NAME, MAX_TEXT
from hbtrio.wire.vocabulary import ACTION_TABLE, Event, NotificationType, VoteResult

_log = logging.getLogger("hbtrio.memory")

#: The kind of history entries about actions, as an agent's.
ACTION: str = "action"


class Remembering:
    """Passes to the memory what changes.

    Args:
        memory: the memory.
        domain_id: returns libvirt's id of an instance's domain; -1 if it is unknown or shut off.
        domain_runs: returns whether libvirt says that an instance's VM runs.
        channels: the channels of all instances, by uuid; a live view.
        config: this host's name, and how many rejects of an event stand.
        reports: this host's reports, which the history consists of.
        on_given_up: called with an instance that has failed, whose socket is not awaited any more.
    """

    def __init__(
        self,
        memory: HostMemory,
        domain_id: Callable[[str], int],
        domain_runs: Callable[[str], bool],
        channels: Mapping[str, Channel],
        config: HostConfig,
        reports: Reports,
        on_given_up: Callable[[str], None],
    ) -> None:
        self._memory = memory
        self._domain_id = domain_id
        self._channels = channels
        self._hostname = config.hostname
        #: The rejects that count against ``[veto]``.
        self.vetoes = Vetoes(VetoRule(config.veto.max_rejects, config.veto.per_s), memory)
        self._reports = reports
        self.recall = Recall(
            channels,
            lambda: memory.moment.boot_s,
            self.known_of,
            self._absent,
            on_given_up,
            domain_runs,
        )
        self._recalled = trio.Event()
        if memory.is_kept:
            reports.listen(self._reported)

    def changed(self, uuid: str) -> None:
        """Takes a change of an instance, its coming or its going."""
        memory = self._memory
        # The connections that a host closes at its own end are no news of its instances.
        if not memory.is_kept or trio.current_effective_deadline() == -math.inf:
            return
        channel = self._channels.get(uuid)
        if channel is not None and not channel.gone:
            self.recall.changed(channel)
            memory.know(self.known_of(channel))
        elif uuid not in self.recall:  # its socket may come back
            self.recall.forget(uuid)
            memory.forget(uuid)
            self.vetoes.forget(uuid)

    def dismiss(self, uuid: str) -> None:
        """Forgets an instance that is not watched now."""
        self.recall.dismiss(uuid)
        self.changed(uuid)

    def recalled(self, recollection: Recollection, kept_back: Collection[str]) -> None:
        """Takes what an earlier run of the host has left.

        Args:
            recollection: what it has left.
            kept_back: the lost instances to which nothing was done, as the brake was closed.
        """
        self.vetoes.recall(recollection.holds)
        self.recall.take(recollection.instances, kept_back, self._memory.moment)
        for known in recollection.instances:
            self.changed(known.uuid)
        self._recalled.set()

    async def until_recalled(self) -> None:
        """Returns once what an earlier run of the host has left was taken."""
        await self._recalled.wait()

    async def give_up(self) -> None:
        """Gives up the instances without a socket, each at its time, until there are none left."""
        await self._recalled.wait()
        due = self.recall.expire()
        while due is not None:
            await trio.sleep_until(due)
            due = self.recall.expire()

    def _absent(self, known: KnownInstance, reason: str) -> None:
        self._memory.forget(known.uuid)
        self.vetoes.forget(known.uuid)
        self._reports.publish(
            Report(
                time=self._reports.now(),
                kind=ReportKind.ABSENT,
                uuid=known.uuid,
                reason=reason,
                name=known.profile.name,
            )
        )

    def action_begins(self, action: ActionRun, asked: str, overridden: str) -> None:
        """Takes the beginning of an action.

        Args:
            action: the action; one that is denied overrides nothing.
            asked: describes the request.
            overridden: what is reported of the guest's reject that does not stand; "" if there is
                none.
        """
        self._record_action(action.uuid, action.name, asked, action.who)
        event, channel = ACTION_TABLE[action.name].before, self._channels.get(action.uuid)
        if overridden and not action.denial and event is not None and channel is not None:
            channel.reports.publish_override(event, overridden, action.who)

    def action_refused(self, uuid: str, name: str, who: str, why: str) -> None:
        """Takes the refusal of an action; the name may be that of none, and the uuid unknown."""
        self._record_action(uuid, name, f"refused: {why}", who)

    def action_planned(self, uuid: str, name: str, what: str, who: str) -> None:
        """Takes that an action is planned, or that a planned one ends without its action."""
        self._record_action(uuid, name, what, who)

    def round_refused(
        self, uuid: str, event: Event, notification: NotificationType, who: str, why: str
    ) -> None:
        """Takes the refusal of a vote or notice; the uuid may be unknown."""
        is_vote = notification is NotificationType.REVOCABLE
        self._memory.record(
            HistoryEntry(
                time=self._reports.now(),
                kind=ReportKind.VOTE if is_vote else ReportKind.NOTICE,
                uuid=uuid[:MAX_NAME],
                hostname=self._hostname,
                event=event,
                result=VoteResult.ERROR,
                reason=f"refused: {why}"[:MAX_TEXT],
                who=who,
            )
        )

    def brake_released(self, who: str) -> None:
        """Takes the release of the brake by an operator."""
        self._record_action("", "release", "corrective commands run again", who)

    def member_forgotten(self, uuid: str, who: str) -> None:
        """Takes that an operator has had a member of groups forgotten."""
        self._record_action(uuid, "forget", "no member of groups any more", who)

    async def action_over(self, record: ActionRecord, outcome: str) -> None:
        """Takes the end of an action, with its outcome; waits for the disk, a second at most."""
        entry = self._action_entry(record.uuid, record.name, outcome, record.who)
        await self._memory.end_action(record.id, entry)

    def _record_action(self, uuid: str, name: str, what: str, who: str) -> None:
        self._memory.record(self._action_entry(uuid, name, what, who))

    def _action_entry(self, uuid: str, name: str, what: str, who: str) -> HistoryEntry:
        return HistoryEntry(
            time=self._reports.now(),
            kind=ACTION,
            uuid=uuid[:MAX_NAME],
            hostname=self._hostname,
            reason=f"{name}: {what}"[:MAX_TEXT],
            who=who,
        )

    def _reported(self, report: Report) -> None:
        self._memory.record(
            HistoryEntry(
                time=report.time,
                kind=report.kind,
                uuid=report.uuid,
                hostname=self._hostname,
                reason=report.reason,
                event=report.event,
                result=report.result,
                who=report.who,
                corrective_action=report.corrective_action,
                command_id=report.command_id,
            )
        )

    def known_of(self, channel: Channel) -> KnownInstance:
        """Returns what is known of an instance, as it is remembered."""
        moment, beat = self._memory.moment, channel.heartbeat
        now, ill = trio.current_time(), beat.situation.illness.reported
        window, until = channel.restart.window, None
        if window is not None:
            until = round(moment.boot_s + window.remaining_s(now), 1)
        elif beat.situation.has_left:
            due_at = beat.situation.guest_due_at  # infinity while libvirt is asked
            until = round(moment.boot_s + (max(due_at - now, 0.0) if due_at < math.inf else 0.0), 1)
        return KnownInstance(
            uuid=channel.uuid,
            state=beat.state.value,
            reason=_reason(channel),
            profile=beat.profile,
            boot_id=moment.boot_id,
            domain_id=self._domain_id(channel.uuid),
            socket=self._memory.socket_of(channel.path),
            expected_until=until,
            ill_action=None if ill is None else ill.action,
            ill_reason="" if ill is None else ill.reason,
            ill_at=0.0 if ill is None else round(moment.boot_s - (now - ill.at), 1),
        )


def _reason(channel: Channel) -> str:
    """Why an instance is in its state; of one that is back provisionally, what may freeze it."""
    if channel.heartbeat.state is HeartbeatState.PROVISIONAL:
        return f"{channel.heartbeat.situation.outage.event} is in progress"
    return channel.why
