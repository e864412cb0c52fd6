"""Opens the votes and notices that an orchestrator asks for, and notes whose its instances are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from hbtrio.fsm.heartbeat.outage import Outage
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.owners import Owners
from hbtrio.nursery.host.refusals import recorded
from hbtrio.nursery.host.round import Round, RoundOpen
from hbtrio.nursery.windows import within
from hbtrio.policy.begin_by import BeginBy
from hbtrio.policy.more_time import FOR_AN_AGENT, FOR_THE_VIM
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    Event,
    ExpectedEffect,
    NotificationType,
)

#: The holder of an instance's place in its groups from a vote's opening to its outcome.
_VOTE: Final = "vote"


class InstanceOwned(RoundOpen):
    """An operator's action is in progress: no vote is opened; a notice would be."""


class OutsideRounds:
    """Opens votes and notices that are no part of an action of this host.

    Args:
        nursery: runs a task for each vote, which waits for its outcome.
        owners: who owns each instance.
        groups: which instances must not go down now.
        guard: the process's on-time guard.
        channel: returns the channel of an instance, or raises UnknownInstance.
        on_refused: called with the uuid, event, notification, requester and reason of a vote or
            notice that was refused.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        owners: Owners,
        groups: HostGroups,
        guard: OnTimeGuard,
        channel: Callable[[str], Channel],
        on_refused: Callable[[str, Event, NotificationType, str, str], None],
    ) -> None:
        self._nursery = nursery
        self._owners = owners
        self._groups = groups
        self._guard = guard
        self._channel = channel
        self._on_refused = on_refused

    def introduce(self, channel: Channel) -> None:
        """Continues an event with a new channel: a VM that was saved has a socket of its own."""
        if self._owners.of(channel.uuid).is_in_event:
            channel.heartbeat.situation.illness.event_begins()

    def open(
        self,
        channel: Channel,
        event: Event,
        notification: NotificationType,
        command_id: str = "",
        who: str = "",
        *,
        by_vim: bool = False,
    ) -> Round:
        """Opens a vote or notice; arguments and errors are those of :meth:`Channel.open_round`.

        A vote of the VIM during which an operator's action begins is rejected in the end.

        Args:
            by_vim: whether the VIM asks: its vote begins an action. A vote of anybody else is only
                a question.

        Raises:
            InstanceOwned: a vote, while an operator's action is in progress.
        """
        is_vote = notification is NotificationType.REVOCABLE
        if is_vote and (refusal := self._refusal(channel.uuid)):
            raise InstanceOwned(refusal)
        begins_action = is_vote and by_vim
        objection = self._groups.refusal(channel.uuid, event) if is_vote else ""
        # Whoever waits at the agent has a timer of its own, from the window as it was opened.
        fixed = FOR_THE_VIM if by_vim else FOR_AN_AGENT if command_id else ""
        opened = channel.open_round(
            event,
            notification,
            command_id,
            who,
            begins_action=begins_action,
            objection=objection,
            fixed=fixed,
        )
        if begins_action:
            opened.refusal = partial(self._refusal, channel.uuid)
            if not objection:
                self._groups.hold(channel.uuid, event, _VOTE)
            self._nursery.start_soon(self._await_outcome, channel.uuid, opened)
        elif not is_vote:
            self._noticed(channel, event, opened.window.seconds)
            if opened.extensions.possible:
                self._nursery.start_soon(self._follow, channel, opened)
        return opened

    def _refusal(self, uuid: str) -> str:
        """Why no vote may lead to an action now; "" if it may."""
        ownership = self._owners.of(uuid)
        return f"{ownership.words} is in progress" if ownership.refuses_vote else ""

    async def open_soon(
        self,
        uuid: str,
        event: Event,
        notification: NotificationType,
        *,
        command_id: str,
        patience_s: float,
        begin_by: BeginBy,
        who: str = "",
        by_vim: bool = False,
    ) -> Round:
        """Opens a vote or notice as soon as the one that is open has closed.

        An orchestrator's timer ends at the same moment as the window of its vote: its next notice
        must not fail by a few milliseconds. Cancelled, it opens nothing.

        Args:
            uuid: the instance.
            event: what it is about.
            notification: a vote or a notice.
            command_id: the id to put into the report of the outcome.
            patience_s: how long to wait for a round that is open, in seconds.
            begin_by: until when it may be opened.
            who: who requested it, for the history.
            by_vim: see :meth:`open`.

        Raises:
            UnknownInstance, NotHeartbeating, RoundOpen, InstanceOwned, Expired: nothing was sent.
        """
        with recorded(partial(self._on_refused, uuid, event, notification, who)):
            until = trio.current_time() + min(patience_s, begin_by.left_s)
            while (current := self._channel(uuid).round) is not None:
                left_s = max(0.0, until - trio.current_time())
                read = self._channel(uuid).take_in
                try:
                    await within(left_s, self._guard, current.done.wait, sources=[read])
                except trio.TooSlowError:
                    break
            begin_by.check()
            channel = self._channel(uuid)
            return self.open(channel, event, notification, command_id, who, by_vim=by_vim)

    async def _await_outcome(self, uuid: str, vote: Round) -> None:
        await vote.done.wait()
        if vote.is_accepted:
            self._owners.vote_accepted(uuid, vote.event)
        self._groups.give_back(uuid, _VOTE)

    async def _follow(self, channel: Channel, notice: Round) -> None:
        """Puts off what follows a notice, with each extension of its window."""
        number = 0
        while await notice.next_extension(number) is not None:
            number += 1
            self._noticed(channel, notice.event, notice.window.remaining_s(trio.current_time()))

    def _noticed(self, channel: Channel, event: Event, window_s: float) -> None:
        over_at = trio.current_time() + window_s
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RETURNS:
                self._owners.end_noticed(channel.uuid)
                return
            case ExpectedEffect.FREEZES:
                outage = Outage.freeze(event, over_at)
            case ExpectedEffect.RESTARTS:
                outage = Outage.restart(event, over_at, channel.heartbeat.profile.restart_s)
            case ExpectedEffect.STOPS:
                outage = Outage.stop(event, over_at)
        self._owners.noticed(channel.uuid, event, outage.call_off_at)
