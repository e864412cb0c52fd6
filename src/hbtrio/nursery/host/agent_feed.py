"""What a host sends its agent: all instances at first, then what changes, and its reports.

Reports go through a queue that outlives a session: each is sent until the agent says that it keeps
it, so that a verdict reaches the VIM once whatever happens to the link. An instance's newest state
goes before the reports about it, coalesced, so that the agent never knows less than it was sent.
"""

from __future__ import annotations

from typing import Final

from hbtrio.net.link_session import LinkSession
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.reports import Report
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.report_queue import ReportQueue
from hbtrio.wire.link_messages import (
    MAX_STATE_REASON,
    MAX_TEXT,
    FromAgent,
    Gone,
    Instance,
    LinkReport,
    SnapshotEnd,
)

#: Reports taken from the queue at a time.
_BATCH: Final = 64


class AgentFeed:
    """The reports that the agent has not acknowledged, and the instances that it has to hear of.

    Args:
        host: followed from now on.
    """

    def __init__(self, host: Host) -> None:
        self.queue = ReportQueue()
        #: Whether the agent has taken this host in.
        self.connected = False
        self._host = host
        self._changed: dict[str, None] = {}
        self._wakeup = WakeUp()
        self._sent = 0
        host.reports.listen(self._reported)
        host.on_change(self._instance_changed)

    def _reported(self, report: Report) -> None:
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
            )
        )
        self._wakeup.set()

    def _instance_changed(self, uuid: str) -> None:
        if self.connected:  # else the next session begins with all there are
            self._changed[uuid] = None
            self._wakeup.set()

    def resume_after(self, acknowledged: int) -> None:
        """The agent keeps the reports up to this number; those after it are sent again."""
        self.queue.acknowledge(acknowledged)
        self._sent = acknowledged

    def disconnected(self) -> bool:
        """The session is over; returns whether :meth:`run` had begun in it."""
        was_connected, self.connected = self.connected, False
        return was_connected

    async def run(self, session: LinkSession[FromAgent]) -> None:
        """Sends all instances, then whatever changes and is reported, until cancelled.

        Raises:
            SessionEnded: the session is over.
        """
        self.connected = True
        self._changed.clear()
        channels = list(self._host.channels.values())
        for channel in channels:
            await session.send(instance_of(channel))
        await session.send(SnapshotEnd(len(channels)))
        while True:
            while self._changed:
                await self.send_if_changed(session, next(iter(self._changed)))
            for report in self.queue.after(self._sent, _BATCH):
                # An instance before the reports about it, also where both came while others were
                # being sent: what the agent tells the VIM of a report is what the instance is like.
                await self.send_if_changed(session, report.uuid)
                await session.send(report)
                self._sent = report.number
            if not self.queue.after(self._sent, 1) and not self._changed:
                await self._wakeup.wait()

    async def send_if_changed(self, session: LinkSession[FromAgent], uuid: str) -> None:
        """Sends an instance's state now, unless the agent has the newest.

        Raises:
            SessionEnded: the session is over.
        """
        if uuid not in self._changed:
            return
        del self._changed[uuid]
        channel = self._host.channels.get(uuid)
        await session.send(
            Gone(uuid, "its channel was removed") if channel is None else instance_of(channel)
        )


def instance_of(channel: Channel) -> Instance:
    """An instance as its agent receives it."""
    beat, profile = channel.heartbeat, channel.heartbeat.profile
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
    )


def _reason(channel: Channel) -> str:
    if channel.heartbeating:
        return channel.heartbeat.health_reason
    return channel.why
