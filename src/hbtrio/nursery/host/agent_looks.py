"""Answers the agent's looks: what of an instance changes too often to be sent on each change.

A look costs the host one message and no wait for its guest. The agent asks at most once a second
for an instance, and only while an operator looks at it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.host.daemon import Host
from hbtrio.wire.link_looks import Look, Seen
from hbtrio.wire.link_messages import MAX_TEXT, FromAgent

#: Answers that may wait for an agent that does not read; further looks are not answered.
MOST_WAITING: Final = 64


class AgentLooks:
    """Answers looks.

    Args:
        host: knows the instances.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting = 0

    async def answer(self, session: LinkSession[FromAgent], look: Look) -> None:
        """Sends what is seen of the instance now.

        Returns without an answer if the session ends, or if :data:`MOST_WAITING` wait already.
        Cancelled, it may not have answered.
        """
        if self._waiting == MOST_WAITING:
            return
        self._waiting += 1
        try:
            with suppress(SessionEnded):
                await session.send(self._seen(look.uuid))
        finally:
            self._waiting -= 1

    def _seen(self, uuid: str) -> Seen:
        channel = self._host.channels.get(uuid)
        if channel is None:
            return Seen(uuid, known=False)
        beat, why_not = channel.heartbeat, self._host.corrective.why_not(uuid)
        return Seen(
            uuid,
            known=True,
            beats=beat.beats,
            missed=beat.missed,
            late_answers=beat.late_answers,
            round_trip_ms=channel.round_trip_ms,
            not_acted="" if why_not is None else why_not.words[:MAX_TEXT],
        )
