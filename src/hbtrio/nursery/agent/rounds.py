"""Opens the agent's votes and notices on the hosts of their instances.

If the host does not open the round, the requester gets that answer at once, and there is no
verdict. :mod:`hbtrio.nursery.agent.round_ends` has what follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

import trio

from hbtrio.fsm.fleet_round import FleetRound
from hbtrio.nursery.agent.arrivals import instance_on_its_host
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.open_rounds import (
    OpenedRound,
    OpenRound,
    kind_of,
    round_command,
)
from hbtrio.nursery.agent.opening_reply import OpeningReply
from hbtrio.nursery.agent.round_ends import RoundEnds
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.policy.begin_by import BeginBy
from hbtrio.store.records import RoundRecord, RoundResult
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import VIM, Instance
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult, window_of, window_s

_log = logging.getLogger("hbtrio.rounds")

#: Seconds that a host may wait for an open round to end: the VIM's timer and ours end together.
PATIENCE_S: Final = 1.0


class Rounds:
    """Opens rounds.

    Args:
        fleet: knows the host of each instance, and its link.
        store: keeps all rounds, open and closed.
        groups: which instances must not go down now.
        unasked: records and answers the rounds that are not opened.
        ends: brings those that are opened to their outcomes.
        new_command_id: makes ids that are never reused.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        groups: FleetGroups,
        unasked: UnaskedRounds,
        ends: RoundEnds,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        #: Ends the rounds that were opened.
        self.ends = ends
        self._fleet = fleet
        self._store = store
        self._groups = groups
        self._unasked = unasked
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock

    def __len__(self) -> int:
        return len(self.ends.open)

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> OpenedRound:
        """Opens a vote or notice on an instance, if it takes part.

        The verdict goes to the VIM once :meth:`RoundEnds.replied` was called. An instance that is
        not heartbeating takes no part: the window is then 0 s.

        Args:
            uuid: the instance.
            event: the event.
            vote: whether it is a vote; else a notice.
            who: the requester.

        Raises:
            Unknown: there is no such instance.
            CantAsk: the instance may be heartbeating, but was not asked, or it is unknown whether
                it was.
            StoreFault: the store failed; the round has no outcome, and a notice was not sent.
        """
        bound = await instance_on_its_host(self._fleet, uuid)
        live = self._fleet.live(uuid)
        session = self._fleet.sessions.get(bound.hostname)
        if session is not None and live is not None:
            return await self._ask_host(session, live, event, vote=vote, who=who)
        if session is None and self._store.fault:
            # A failing store ends links. The VIM reads a window of 0 s as consent, even after the
            # grace time of the hosts.
            raise StoreFault(self._store.fault)
        if session is None:
            reason = f"{bound.hostname} has no link to this agent"
        else:
            reason = session.why_gone(uuid) or f"{bound.hostname} does not know {uuid}"
        return await self._unasked.refuse(
            uuid, bound.hostname, event, vote=vote, who=who, reason=reason
        )

    async def _ask_host(
        self, session: HostSession, live: Instance, event: Event, *, vote: bool, who: str
    ) -> OpenedRound:
        """Has a host open a vote or notice.

        A vote is sent to the host while it is being stored, because storing is half of the agent's
        latency. A vote whose result is not used does no harm; a notice would.
        """
        kind = NotificationType.REVOCABLE if vote else NotificationType.IRREVOCABLE
        record = RoundRecord(
            command_id=self._new_command_id(),
            uuid=live.uuid,
            hostname=session.hostname,
            event=event,
            vote=vote,
            asked_by=who,
            asked_at=self._wall_clock(),
            window_s=window_s(live, window_of(event, kind)),
            boot_id=session.hello.boot_id,
        )
        fault = self.ends.open.refusal_of(record)
        if fault:
            return await self._unasked.refuse(
                live.uuid, session.hostname, event, vote=vote, who=who, reason=fault
            )
        # Added before the command is sent: the host may report the outcome before it replies.
        now, for_vim = trio.current_time(), who == VIM
        machine = FleetRound(vote=vote, window_s=record.window_s, now=now, for_vim=for_vim)
        current = self.ends.open.add(OpenRound(record, machine))
        if vote and live.heartbeating and (objection := self._groups.refusal(live.uuid, event)):
            return await self._object(current, objection)
        if vote and for_vim:
            self._hold(current)
        # Before and after: the link may be lost meanwhile, or an action begin.
        is_acted_on = vote and session.is_acting_on(live.uuid)
        opened = await self._open_on(session, current, session.begin_by(PATIENCE_S))
        if opened.fault:
            self.ends.end(current, machine.host_opened_none(opened.fault))
            # A host that does not answer can't say that it acts for an operator.
            is_acted_on = is_acted_on or (vote and session.is_acting_on(live.uuid))
            is_owned = opened.is_owned or is_acted_on
            return self._unasked.answer(
                record, opened.fault, is_unknown=opened.is_unknown, is_owned=is_owned
            )
        machine.host_opened(opened.seconds, trio.current_time())
        if not vote:
            self._groups.noticed(live.uuid, event)
        self.ends.hold(current)
        return OpenedRound(record.command_id, opened.seconds, current.outcome)

    def resumed(self) -> None:
        """Takes the instances' places for the votes that a previous process has left open."""
        for current in self.ends.open:
            if current.record.vote and current.record.asked_by == VIM:
                self._hold(current)

    def _hold(self, current: OpenRound) -> None:
        """Takes an instance's place in its groups for the vote of an action."""
        record, groups = current.record, self._groups

        def over(result: RoundResult) -> None:
            # A vote that was dropped has no verdict: the VIM does not act upon it.
            if result.result is not VoteResult.REJECT and not current.machine.is_dropped:
                groups.vote_accepted(record.uuid, record.event)
            groups.give_back(record.uuid, record.command_id)

        groups.hold(record.uuid, record.event, record.command_id)
        current.on_end = over

    async def _object(self, current: OpenRound, reason: str) -> OpenedRound:
        """Rejects a vote for the rule of a group; its host is not asked."""
        record = current.record
        try:
            await self._store.open_round(record)
        except StoreFault as error:
            self._drop(current, error)
            raise
        except BaseException:
            self.ends.unheard(record.command_id)
            raise
        self.ends.end(current, current.machine.denied(reason))
        return OpenedRound(record.command_id, round(record.window_s), current.outcome)

    def _drop(self, current: OpenRound, fault: StoreFault) -> None:
        """Drops a round that was not stored."""
        record = current.record
        current.machine.not_stored()
        self.ends.open.pop(record.command_id)
        self._groups.give_back(record.uuid, record.command_id)
        what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
        _log.error("%s: no %s: store: %s", record.uuid, what, fault)

    async def _open_on(
        self, session: HostSession, current: OpenRound, begin_by: BeginBy
    ) -> OpeningReply:
        """Stores a round and has its host open it.

        Raises:
            StoreFault: the round was not stored, and is dropped.

        Cancelled, it ends the round without a verdict: nobody waits for the reply, and it is
        unknown whether the host has opened it, or the store has it.
        """
        record = current.record
        opened = OpeningReply()
        lost: StoreFault | None = None

        async def command() -> None:
            nonlocal opened
            opened = await session.open_round(round_command(record, PATIENCE_S), begin_by)

        try:
            async with trio.open_nursery() as nursery:
                if record.vote:
                    nursery.start_soon(command)
                try:
                    # Queued in the store before the command reaches the host, and so before the
                    # outcome.
                    await self._store.open_round(record)
                except StoreFault as error:
                    lost = error
                    nursery.cancel_scope.cancel()
                else:
                    if not record.vote:
                        nursery.start_soon(command)
        except BaseException:
            self.ends.unheard(record.command_id)
            raise
        if lost is not None:
            self._drop(current, lost)
            raise lost
        return opened
