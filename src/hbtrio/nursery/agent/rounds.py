"""Runs the agent's votes and notices, each from its opening to its one outcome.

:mod:`hbtrio.fsm.fleet_round` decides; if two outcomes come at once, the store does. If the host
does not open the round, the requester gets that answer at once, and there is no verdict.

The verdict of a round that the VIM requested is sent once the reply to the request has been written
completely. There is no verdict if the VIM did not wait for the reply, or if the agent ended before
it was known whether the reply was written: then the VIM does not wait, or its own timer decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

import trio

from hbtrio.fsm.fleet_round import NOT_HEARD, FleetRound, RoundEnd
from hbtrio.nursery.agent.arrivals import instance_on_its_host
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession, OpeningReply
from hbtrio.nursery.agent.open_rounds import (
    OpenedRound,
    OpenRound,
    OpenRounds,
    history_of,
    kind_of,
    round_command,
)
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.nursery.agent.verdicts import Verdicts
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.begin_by import BeginBy
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord, RoundResult
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import VIM, Instance, LinkReport
from hbtrio.wire.vocabulary import Event, NotificationType, window_of, window_s

_log = logging.getLogger("hbtrio.rounds")

#: Seconds that a host may wait for an open round to end: the VIM's timer and ours end together.
PATIENCE_S: Final = 1.0


class Rounds:
    """Opens rounds and carries them to their outcomes.

    Args:
        nursery: runs the windows. When it ends, open rounds stay open: the next process resumes
            them.
        fleet: knows the host of each instance, and its link.
        store: keeps all rounds, open and closed.
        unasked: records and answers the rounds that are not opened.
        guard: the process's on-time guard.
        outbox: woken when a verdict was queued.
        history: publishes rounds that end without a report of their host.
        verdicts: makes those for the VIM.
        new_command_id: makes ids that are never reused.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        store: Store,
        unasked: UnaskedRounds,
        guard: OnTimeGuard,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        verdicts: Verdicts,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._nursery = nursery
        self._fleet = fleet
        self._store = store
        self._unasked = unasked
        self._guard = guard
        self._outbox = outbox
        self._history = history
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock
        self._verdicts = verdicts
        self._open = OpenRounds()

    def __len__(self) -> int:
        return len(self._open)

    async def resume(self) -> None:
        """Resumes the rounds that a previous process has left open.

        Raises:
            StoreFault: the store can't be read.
        """
        for record in await self._store.open_rounds():
            age_s = (self._wall_clock() - record.asked_at).total_seconds()
            machine = FleetRound.resumed(
                vote=record.vote,
                window_s=record.window_s,
                replied=record.replied,
                age_s=age_s,
                now=trio.current_time(),
                for_vim=record.asked_by == VIM,
            )
            current = self._open.add(OpenRound(record, machine))
            self._end(current, machine.agent_restarted(age_s))
            self._nursery.start_soon(self._hold_window, current)

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> OpenedRound:
        """Opens a vote or notice on an instance, if it takes part.

        The verdict goes to the VIM once :meth:`replied` was called. An instance that is not
        heartbeating takes no part: the window is then 0 s.

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
        reason = f"{bound.hostname} does not know {uuid}"
        if session is None:
            reason = f"{bound.hostname} has no link to this agent"
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
        fault = self._open.refusal_of(record)
        if fault:
            return await self._unasked.refuse(
                live.uuid, session.hostname, event, vote=vote, who=who, reason=fault
            )
        # Added before the command is sent: the host may report the outcome before it replies.
        now, for_vim = trio.current_time(), who == VIM
        machine = FleetRound(vote=vote, window_s=record.window_s, now=now, for_vim=for_vim)
        current = self._open.add(OpenRound(record, machine))
        opened = await self._open_on(session, current, session.begin_by(PATIENCE_S))
        if opened.fault:
            self._end(current, machine.host_opened_none(opened.fault))
            return self._unasked.answer(
                record, opened.fault, is_unknown=opened.is_unknown, is_owned=opened.is_owned
            )
        machine.host_opened(opened.seconds, trio.current_time())
        self._nursery.start_soon(self._hold_window, current)
        return OpenedRound(record.command_id, opened.seconds, current.outcome)

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
            self.unheard(record.command_id)
            raise
        if lost is not None:
            current.machine.not_stored()
            self._open.pop(record.command_id)
            what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
            _log.error("%s: no %s: store: %s", record.uuid, what, lost)
            raise lost
        return opened

    async def replied(self, command_id: str) -> None:
        """Notes that the reply to the requester was written completely: the verdict may follow."""
        current = self._open.get(command_id)
        if current is None or current.machine.reply_written():
            # Woken early, so that the delivery's query mostly joins the same transaction. Without
            # an outcome the query would find nothing, and would delay the one that finds it.
            self._outbox.set()
        try:
            await self._store.replied(command_id)
        except StoreFault as fault:
            _log.error("store: %s: the verdict of %s can't be sent yet", fault, command_id)
            self._nursery.start_soon(self._note_reply, command_id)

    async def _note_reply(self, command_id: str) -> None:
        await retry_forever(lambda: self._store.replied(command_id))
        self._outbox.set()

    def unheard(self, command_id: str) -> None:
        """Notes that the requester did not wait for the reply: there will be no verdict."""
        current = self._open.get(command_id)
        end = None if current is None else current.machine.reply_unheard()
        if current is not None:
            self._open.end(current)
        self._nursery.start_soon(self._close_unheard, command_id, current, end)

    async def _close_unheard(
        self, command_id: str, current: OpenRound | None, end: RoundEnd | None
    ) -> None:
        if current is not None and end is not None:
            await self._close(current, end)
        # The outcome may have come first, or may be queued in the store.
        await retry_forever(lambda: self._store.withdraw(command_id, NOT_HEARD))

    def host_restarted(self, hostname: str, boot_id: str) -> None:
        """Ends the rounds of a host's previous process."""
        for current in self._open:
            record = current.record
            if record.hostname == hostname and record.boot_id not in ("", boot_id):
                self._end(current, current.machine.host_restarted())

    async def reported(
        self, hostname: str, report: LinkReport
    ) -> tuple[RoundRecord | None, RoundResult | None, list[NewEntry]]:
        """Looks up the round of a reported outcome.

        Returns:
            The round, its result and the entries for the VIM; None, None and no entries if this
            agent never requested the round from that host.
        """
        ending = self.ending(report.command_id)
        if ending is not None and ending.machine.is_dropped and not self._store.fault:
            # Its requester was told something else already: the report becomes a note on that.
            await ending.outcome.wait()
        current = self._open.get(report.command_id)
        record = current.record if current else await self._store.find_round(report.command_id)
        if record is None or report.result is None or record.hostname != hostname:
            return None, None, []
        until = None
        if current is not None:
            current.machine.outcome_reported()
            until = current.machine.verdict_until
        result = RoundResult(report.command_id, report.result, report.reason)
        return record, result, self._verdicts.entries(record, result, until)

    def ending(self, command_id: str) -> OpenRound | None:
        """Returns the round of this command if it has an outcome that is not stored yet."""
        return self._open.ending(command_id)

    def awaits_reply(self, command_id: str) -> bool:
        """Returns whether a round is open and its verdict has to wait for :meth:`replied`."""
        current = self._open.get(command_id)
        return current is not None and current.machine.awaits_reply

    def settled(self, result: RoundResult) -> None:
        """Ends a round whose reported outcome is in the store."""
        current = self._open.pop(result.command_id)
        if current is not None:
            current.machine.outcome_stored()
            current.end(result)

    # ----------------------------------------------------------------------------------------------

    async def _hold_window(self, current: OpenRound) -> None:
        """Waits for the reported outcome; at the deadline, a silent guest agrees."""
        take_in = partial(self._fleet.take_in, current.record.hostname)
        if await current.is_silent(self._guard, take_in):
            self._end(current, current.machine.window_closed())

    def _end(self, current: OpenRound, end: RoundEnd | None) -> None:
        """Ends a round if its machine has returned an end."""
        if end is not None:
            self._open.end(current)
            self._nursery.start_soon(self._close, current, end)

    async def _close(self, current: OpenRound, end: RoundEnd) -> None:
        record = current.record
        result = RoundResult(record.command_id, end.result, end.reason)
        history = history_of(record, result, self._wall_clock())
        until = current.machine.verdict_until
        entries = self._verdicts.entries(record, result, until) if end.has_verdict else []
        if await retry_forever(lambda: self._store.close_round(result, history, entries)):
            self._history.publish(history)
        else:
            # The host's report was stored first, though its link ended before the result was seen.
            kept = await retry_forever(lambda: self._store.find_round(record.command_id))
            if kept is not None and kept.result is not None:
                result = RoundResult(record.command_id, kept.result, kept.reason)
        self._open.ended(current)
        current.end(result)
        self._outbox.set()
