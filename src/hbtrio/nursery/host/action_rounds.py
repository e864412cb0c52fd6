"""Runs the votes and notices of one action."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from hbtrio.fsm.ballot import Outcome
from hbtrio.nursery.host.action_tools import ActionTools
from hbtrio.nursery.host.agent_places import Answered
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.round import NotHeartbeating, Round
from hbtrio.policy.begin_by import BeginBy
from hbtrio.store.host_records import ActionRecord
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, NotificationType

_log = logging.getLogger("hbtrio.actions")


class ActionRounds:
    """The votes and notices of one action.

    Args:
        record: the action.
        tools: what all actions share.
        progress: adds a progress line with these members.
        begin_by: until when the first step of the action may begin.
        on_extended: called with what is left of a window that was extended, in seconds.
    """

    def __init__(
        self,
        record: ActionRecord,
        tools: ActionTools,
        progress: Callable[..., None],
        begin_by: BeginBy,
        on_extended: Callable[[float], Awaitable[None]],
    ) -> None:
        self._uuid = record.uuid
        self._record = record
        self._tools = tools
        self._progress = progress
        self._on_extended = on_extended
        #: None once the first step has begun.
        self._begin_by: BeginBy | None = begin_by

    def answered(self, answer: Answered, waited_s: float) -> None:
        """Takes what the agent has said, after so many seconds, of its groups."""
        self.extend(waited_s)
        if answer.fault:
            text = "%s: action %s: the agent's groups were not asked: %s"
            _log.warning(text, self._uuid, self._record.name, answer.fault)
            self._progress(step="group", skipped=f"the agent's were not asked: {answer.fault}")

    def extend(self, wait_s: float) -> None:
        """Lets the first step begin so much later; whoever follows the action was told why."""
        if self._begin_by is not None:
            self._begin_by = self._begin_by.extended(wait_s)

    def begins(self) -> None:
        """Takes that the first step begins now.

        Raises:
            Expired: it comes too late.
        """
        self._check_in_time()
        self._begin_by = None

    async def vote(self, event: Event) -> Outcome | None:
        """Runs a vote and returns its outcome; see :meth:`notice`."""
        return await self._run("vote", event, NotificationType.REVOCABLE)

    async def notice(self, event: Event) -> Outcome | None:
        """Runs a notice and returns its outcome; None if the instance can't take part.

        Raises:
            Expired: it is the action's first step, and comes too late.
        """
        return await self._run("notice", event, NotificationType.IRREVOCABLE)

    async def _run(self, kind: str, event: Event, notification: NotificationType) -> Outcome | None:
        try:
            opened = await self._open(kind, event, notification)
        except NotHeartbeating as error:
            self._progress(step=kind, event=event, skipped=str(error))
            return None
        window = opened.window
        self._progress(step=kind, event=event, window=window.kind, seconds=window.seconds)
        number = 0
        while (extension := await opened.next_extension(number)) is not None:
            number += 1
            left_s = round(window.remaining_s(trio.current_time()), 3)
            words = extension.words
            self._progress(
                step=kind, event=event, window=window.kind, extended=words, seconds=left_s
            )
            await self._on_extended(left_s)
        outcome = opened.outcome
        if outcome is not None:
            self._progress(step=kind, event=event, result=outcome.result, reason=outcome.reason)
        return outcome

    async def _open(self, kind: str, event: Event, notification: NotificationType) -> Round:
        """Opens a vote or notice, after the one that is open already: a guest can handle only one.

        Nobody else opens another in between, so that the wait is as long as the progress line says.

        Raises:
            NotHeartbeating: the instance can't take part.
            Expired: it is the action's first step, and came too late.
        """
        self._check_in_time()
        channel = self._present_channel()
        if channel.round is not None:
            with channel.rounds.reserved():
                await self._wait_for(kind, event, channel.round)
            self._check_in_time()
            channel = self._present_channel()
        is_vote = notification is NotificationType.REVOCABLE
        # What is over is not planned any more.
        is_ahead = EVENT_TABLE[event].effect is not ExpectedEffect.RETURNS
        planned_at = self._tools.drains.planned_at(self._record) if is_ahead else 0
        who = self._record.who
        opened = channel.open_round(
            event, notification, who=who, begins_action=is_vote, planned_at=planned_at
        )
        self._begin_by = None
        return opened

    async def _wait_for(self, kind: str, event: Event, other: Round) -> None:
        """Waits for the end of another vote or notice, whose window may be extended meanwhile."""
        number = 0
        while True:
            now = trio.current_time()
            left_s = other.window.remaining_s(now)
            # Without this line a watcher would take the wait for a hung host.
            self._progress(
                step=kind, event=event, waiting=other.open_text(now), seconds=round(left_s, 3)
            )
            self.extend(left_s)
            if await other.next_extension(number) is None:
                return
            number += 1

    def _check_in_time(self) -> None:
        if self._begin_by is not None:
            self._begin_by.check()

    def _present_channel(self) -> Channel:
        channel = self._tools.channel_of(self._uuid)
        if channel is None or channel.gone:
            raise NotHeartbeating("the instance is not on this host")
        return channel
