"""Sends a host's state to its agent: all instances first, then changes and reports.

Reports go through a queue that outlives a session: each is sent again until the agent acknowledges
it, so that a verdict reaches the VIM once, whatever happens to the link. The newest state of an
instance is sent before the reports about it, so that the agent never knows less than the report
implies. Several changes of one instance are sent as one.
"""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.fsm.known_domains import Domain
from hbtrio.fsm.ownership import Ownership
from hbtrio.net.link_session import LinkSession
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.nursery.host.voters import voters_of
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import BallotWindow
from hbtrio.policy.hold_messages import message_of
from hbtrio.policy.instance_hold import InstanceHold
from hbtrio.policy.overload import OverloadChange
from hbtrio.policy.report_queue import ReportQueue
from hbtrio.wire.link_messages import (
    MAX_NAME,
    MAX_STATE_REASON,
    MAX_TEXT,
    FromAgent,
    Gone,
    Instance,
    LinkReport,
    OverloadReport,
    SnapshotEnd,
)
from hbtrio.wire.link_parts import MAX_EXTENDED, MAX_REMAINING_S, LinkRound
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, Event

#: Reports that the agent makes itself, of the words that it is told.
_OF_HOLDS: Final = (ReportKind.HOLD, ReportKind.HOLD_OVER)

#: Reports taken from the queue at a time.
_BATCH: Final = 64


class AgentFeed:
    """Queues the reports that the agent has not acknowledged, and the instances that have changed.

    Args:
        host: its reports and changes are followed from now on.
    """

    def __init__(self, host: Host) -> None:
        self.queue = ReportQueue()
        #: Whether the agent has accepted this host.
        self.connected = False
        self._host = host
        self._takes_overloads = self._takes_holds = False
        #: Words about holds that the agent does not know, by uuid.
        self._words: dict[str, InstanceHold] = {}
        #: Whether the agent doesn't know yet whether the host is overloaded.
        self._overload_changed = False
        self._changed: dict[str, None] = {}
        #: What was in progress on instances when their states were sent last.
        self._acting: dict[str, Event | None] = {}
        self._wakeup = WakeUp()
        self._sent = 0
        host.reports.listen(self._add_report)
        host.on_change(self._instance_changed)
        host.owners.on_change(self._owner_changed)
        host.groups.of_agent.on_answer(self._owner_changed)
        host.overload.changes.listen(self._note_overload)
        host.holds.words.listen(self._note_word)

    def _add_report(self, report: Report) -> None:
        if report.kind in _OF_HOLDS:
            return
        self._instance_changed(report.uuid)
        self.queue.add(
            LinkReport(
                number=0,
                time=report.time.isoformat(),
                kind=report.kind,
                uuid=report.uuid,
                reason=report.reason[:MAX_TEXT],
                event=report.event,
                result=report.result,
                corrective_action=report.corrective_action,
                command_id=report.command_id,
                who=report.who[:MAX_NAME],
            )
        )
        self._wakeup.set()

    def _instance_changed(self, uuid: str) -> None:
        if self.connected:  # else the next session begins with all instances
            self._changed[uuid] = None
            self._wakeup.set()

    def _owner_changed(self, uuid: str) -> None:
        if self._acts(uuid) != self._acting.get(uuid):
            self._instance_changed(uuid)

    def _acts(self, uuid: str) -> Event | None:
        """The event of what has begun; of what the agent is asked about nothing has."""
        host = self._host
        return None if host.groups.of_agent.waits(uuid) else event_of(host.owners.of(uuid))

    def _note_overload(self, _: OverloadChange) -> None:
        self._overload_changed = self._takes_overloads
        self._wakeup.set()

    def _note_word(self, word: InstanceHold) -> None:
        if self._takes_holds:
            self._words[word.uuid] = word
            self._wakeup.set()

    def resume_after(self, acknowledged: int, *, overloads: bool, holds: bool) -> None:
        """Drops the reports up to this number, which the agent has stored, and resends the rest.

        Args:
            acknowledged: the number.
            overloads: whether the agent takes ``OverloadReport``.
            holds: whether it takes ``HoldWord``.
        """
        self.queue.acknowledge(acknowledged)
        self._sent = acknowledged
        self._takes_overloads, self._takes_holds = overloads, holds

    def disconnected(self) -> bool:
        """Notes the end of a session; returns whether :meth:`run` had begun in it."""
        was_connected, self.connected = self.connected, False
        return was_connected

    async def run(self, session: LinkSession[FromAgent]) -> None:
        """Sends all instances, then changes and reports, until cancelled.

        Raises:
            SessionEnded: the session is over.
        """
        self.connected = True
        self._changed.clear()
        words = self._host.holds.all_words() if self._takes_holds else ()
        self._words = {word.uuid: word for word in words}
        await self._send_words(session)
        channels = list(self._host.channels.values())
        for channel in channels:
            await session.send(self._instance(channel))
        await session.send(SnapshotEnd(len(channels)))
        for uuid in tuple(self._host.watched.left_out):
            await session.send(self._gone(uuid))
        self._overload_changed = self._takes_overloads and self._host.overload.since is not None
        while True:
            await self._send_overload(session)
            await self._send_words(session)
            while self._changed:
                await self.send_if_changed(session, next(iter(self._changed)))
            for report in self.queue.after(self._sent, _BATCH):
                # The state first, also if both came while other items were being sent: what the
                # agent sends the VIM about a report depends on the instance's state.
                await self.send_if_changed(session, report.uuid)
                await session.send(report)
                self._sent = report.number
            if not (self.queue.after(self._sent, 1) or self._is_behind):
                await self._wakeup.wait()

    @property
    def _is_behind(self) -> bool:
        return bool(self._changed or self._overload_changed or self._words)

    async def _send_words(self, session: LinkSession[FromAgent]) -> None:
        while self._words:
            word = self._words.pop(next(iter(self._words)))
            await session.send(message_of(word, trio.current_time()))

    async def _send_overload(self, session: LinkSession[FromAgent]) -> None:
        if self._overload_changed:
            self._overload_changed = False
            overload = self._host.overload
            since = "" if overload.since is None else overload.since.isoformat(timespec="seconds")
            await session.send(OverloadReport(since, overload.alarm and bool(since)))

    async def send_if_changed(self, session: LinkSession[FromAgent], uuid: str) -> None:
        """Sends an instance's state now, unless the agent has the newest state.

        Raises:
            SessionEnded: the session is over.
        """
        if uuid not in self._changed:
            return
        del self._changed[uuid]
        channel = self._host.channels.get(uuid)
        await session.send(self._gone(uuid) if channel is None else self._instance(channel))

    def _gone(self, uuid: str) -> Gone:
        self._acting.pop(uuid, None)
        watched = self._host.watched
        if uuid not in watched.left_out:
            return Gone(uuid, "its channel was removed")
        return Gone(uuid, watched.why(uuid, self._host.config.hostname)[:MAX_TEXT])

    def _instance(self, channel: Channel) -> Instance:
        uuid = channel.uuid
        acting = self._acting[uuid] = self._acts(uuid)
        return instance_of(channel, self._host.domains.of(uuid), acting)


def event_of(ownership: Ownership) -> Event | None:
    """Returns what an operator's action or a corrective command in progress does to an instance."""
    acts = ownership.acts
    # The names of corrective commands are those of actions, but for that of the one that only logs.
    return ACTION_TABLE[ActionName(acts)].before if acts in ACTION_TABLE else None


def instance_of(
    channel: Channel, domain: Domain | None = None, acting: Event | None = None
) -> Instance:
    """Makes the link message with an instance's state, and what libvirt and its owner do to it."""
    beat, profile, current = channel.heartbeat, channel.heartbeat.profile, channel.round
    # A window that is no longer needed closes a moment later.
    restart = channel.restart.window if beat.is_expected_back else None
    return Instance(
        uuid=channel.uuid,
        name=profile.name,
        state=beat.state.shown,
        heartbeating=channel.heartbeating,
        health=beat.health,
        corrective_action=profile.corrective_action,
        interval_ms=round(profile.interval_s * 1000),
        vote_s=profile.vote_s,
        shutdown_notice_s=profile.shutdown_notice_s,
        suspend_notice_s=profile.suspend_notice_s,
        resume_notice_s=profile.resume_notice_s,
        restart_s=profile.restart_s,
        why=_reason(channel)[:MAX_STATE_REASON],
        domain="" if domain is None else domain.name[:MAX_NAME],
        domain_state="" if domain is None else domain.state.words[:MAX_NAME],
        voters=voters_of(channel),
        voters_unlisted=channel.voters.unlisted,
        open=None
        if current is None
        else LinkRound(
            current.is_vote,
            current.event,
            _left_s(current.window),
            current.extensions.words[:MAX_EXTENDED],
        ),
        restart_remaining_s=None if restart is None else _left_s(restart),
        acting=acting,
    )


def _left_s(window: BallotWindow) -> float:
    return round(min(window.remaining_s(trio.current_time()), MAX_REMAINING_S), 3)


def _reason(channel: Channel) -> str:
    if channel.heartbeating:
        return channel.heartbeat.health_reason
    return channel.why
