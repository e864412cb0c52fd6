"""Votes and notices that somebody asked for, each carried from its opening to its one end.

What becomes of one is decided in :mod:`hbtrio.fsm.fleet_round`, and if two ends come at once, by
the store. Whoever asked for one that its host does not open is told so at once, and there is no
verdict.

The verdict is sent to the VIM if the VIM has asked, once the reply to its request is written whole.
Where the VIM did not wait for the reply, or nobody can know whether it was written because the
agent ended in between, there is none: the VIM does not wait for it, or its own timer decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import trio

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.fsm.fleet_round import NOT_HEARD, FleetRound, RoundEnd
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.open_rounds import (
    VIM,
    OpenedRound,
    OpenRound,
    OpenRounds,
    history_of,
    kind_of,
    verdict_body,
)
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord, RoundResult
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Instance, LinkReport, RoundCommand, window_s
from hbtrio.wire.vocabulary import Event, NotificationType, window_of

_log = logging.getLogger("hbtrio.rounds")

#: A host may wait this long for a round that is open to end: the VIM's timer and ours end together.
PATIENCE_S: Final = 1.0


class Rounds:
    """The rounds under way.

    Args:
        nursery: ends them, each in its time. When it ends, those that are open stay so: the next
            process sees to them.
        fleet: knows which host an instance is on, and its link.
        store: knows them all, open and closed.
        unasked: for those that nobody opens.
        guard: the process's on-time guard.
        outbox: woken when a verdict was queued.
        history: rounds that end otherwise than by their host's report are published there.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
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
        self._open = OpenRounds()

    def __len__(self) -> int:
        return len(self._open)

    async def resume(self) -> None:
        """Takes over, in its nursery, the rounds that a former process left open.

        Raises:
            StoreFault: those can't be read.
        """
        for record in await self._store.open_rounds():
            age_s = (self._wall_clock() - record.asked_at).total_seconds()
            machine = FleetRound.resumed(
                vote=record.vote,
                window_s=record.window_s,
                replied=record.replied,
                age_s=age_s,
                now=trio.current_time(),
            )
            current = self._open.add(OpenRound(record, machine))
            self._end(current, machine.agent_restarted(age_s))
            self._nursery.start_soon(self._hold_window, current)

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> OpenedRound:
        """Opens a vote or notice on an instance, if it takes part.

        Its verdict goes to the VIM once :meth:`replied` was called. One that counts as not
        heartbeating has nothing to say: the window is then 0 s.

        Args:
            uuid: the instance.
            event: what it is about.
            vote: a vote, else a notice.
            who: who asks.

        Raises:
            Unknown: there is no such instance.
            CantAsk: it may be heartbeating, and was not asked, or nobody knows.
            StoreFault: nobody can be asked, as nothing can be kept; or nothing follows from it, and
                a notice was not sent.
        """
        bound = self._fleet.instance(uuid)
        live = self._fleet.live(uuid)
        session = self._fleet.sessions.get(bound.hostname)
        if session is not None and live is not None:
            return await self._ask_host(session, live, event, vote=vote, who=who)
        if session is None and self._store.fault:
            # It ends links. The VIM reads a window of 0 s as consent, even once the hosts' grace
            # time is over.
            raise StoreFault(self._store.fault)
        why = f"{bound.hostname} does not know {uuid}"
        if session is None:
            why = f"{bound.hostname} has no link to this agent"
        return await self._unasked.refuse(uuid, bound.hostname, event, vote=vote, who=who, why=why)

    async def _ask_host(
        self, session: HostSession, live: Instance, event: Event, *, vote: bool, who: str
    ) -> OpenedRound:
        """Has a host open a vote or notice.

        A vote is sent to the host while it is being stored, which is half of what it costs the
        agent's side. A question that nobody waits for any more does no harm; a notice does.
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
        fault = self._open.hindrance(record)
        if fault:
            return await self._unasked.refuse(
                live.uuid, session.hostname, event, vote=vote, who=who, why=fault
            )
        # Known here before the host is told: it may report the outcome before it replies.
        machine = FleetRound(vote=vote, window_s=record.window_s, now=trio.current_time())
        current = self._open.add(OpenRound(record, machine))
        seconds, fault = await self._open_on(session, current)
        if fault:
            self._end(current, machine.host_opened_none(fault))
            return self._unasked.answer(record, fault)
        machine.host_opened(seconds, trio.current_time())
        self._nursery.start_soon(self._hold_window, current)
        return OpenedRound(record.command_id, seconds, current.outcome)

    async def _open_on(self, session: HostSession, current: OpenRound) -> tuple[int, str]:
        """Stores a round and has its host open it.

        Returns:
            its window in seconds, and why there is none.

        Raises:
            StoreFault: it was not stored, and is forgotten.
        """
        record = current.record
        opened = 0, ""
        stored = False
        lost: StoreFault | None = None

        async def command() -> None:
            nonlocal opened
            opened = await session.open_round(
                RoundCommand(record.command_id, record.uuid, record.event, record.vote, PATIENCE_S)
            )

        try:
            async with trio.open_nursery() as nursery:
                if record.vote:
                    nursery.start_soon(command)
                try:
                    # It has its place in the store's queue before the host can hear of it, and so
                    # before its outcome has.
                    await self._store.open_round(record)
                except StoreFault as error:
                    lost = error
                    nursery.cancel_scope.cancel()
                else:
                    stored = True
                    if not record.vote:
                        nursery.start_soon(command)
        finally:
            if not stored:
                current.machine.not_stored()
                self._open.pop(record.command_id)
        if lost is not None:
            what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
            _log.error("%s: no %s: store: %s", record.uuid, what, lost)
            raise lost
        return opened

    async def replied(self, command_id: str) -> None:
        """The reply to whoever asked is written whole: the verdict may follow."""
        current = self._open.get(command_id)
        if current is None or current.machine.reply_written():
            # Before: the delivery's look then comes right behind in the store, in one transaction
            # mostly. Without an outcome there would be nothing to see, and a look under way when
            # that comes would hold up the one that sees it.
            self._outbox.set()
        try:
            await self._store.replied(command_id)
        except StoreFault as fault:
            _log.error("store: %s: a verdict can't be sent yet", fault)
            self._nursery.start_soon(self._note_reply, command_id)

    async def _note_reply(self, command_id: str) -> None:
        await retry_forever(lambda: self._store.replied(command_id))
        self._outbox.set()

    def unheard(self, command_id: str) -> None:
        """Whoever asked did not wait for the reply: there will be no verdict."""
        current = self._open.get(command_id)
        end = None if current is None else current.machine.reply_unheard()
        if current is not None:
            self._open.pop(command_id)
        self._nursery.start_soon(self._close_unheard, command_id, current, end)

    async def _close_unheard(
        self, command_id: str, current: OpenRound | None, end: RoundEnd | None
    ) -> None:
        if current is not None and end is not None:
            await self._close(current, end)
        # The outcome may have been first, or be on its way through the store.
        await retry_forever(lambda: self._store.withdraw(command_id, NOT_HEARD))

    def host_restarted(self, hostname: str, boot_id: str) -> None:
        """A host's process is this one now: those before it took their rounds with them."""
        for current in self._open:
            record = current.record
            if record.hostname == hostname and record.boot_id not in ("", boot_id):
                self._end(current, current.machine.host_restarted())

    async def reported(
        self, hostname: str, report: LinkReport
    ) -> tuple[RoundRecord | None, RoundResult | None, list[NewEntry]]:
        """What a host's report of an outcome means.

        Returns:
            the round, its result and what the VIM is to hear; None, None and nothing if this agent
            never asked that host for it.
        """
        current = self._open.get(report.command_id)
        record = current.record if current else await self._store.find_round(report.command_id)
        if record is None or report.result is None or record.hostname != hostname:
            return None, None, []
        until = None
        if current is not None:
            current.machine.outcome_reported()
            until = current.machine.verdict_until
        result = RoundResult(report.command_id, report.result, report.reason)
        return record, result, self._verdict(record, result, until)

    def awaits_reply(self, command_id: str) -> bool:
        """Whether it is under way and its verdict can't be sent yet: :meth:`replied` will wake."""
        current = self._open.get(command_id)
        return current is not None and current.machine.awaits_reply

    def settled(self, result: RoundResult) -> None:
        """The report of a round's outcome is in the store."""
        current = self._open.pop(result.command_id)
        if current is not None:
            current.machine.outcome_stored()
            current.end(result)

    # ----------------------------------------------------------------------------------------------

    async def _hold_window(self, current: OpenRound) -> None:
        """Waits for the outcome that its host reports; at the deadline, silence is agreement."""

        def take_in() -> bool:
            # Of the host's link as it is then: it may have dialled in again meanwhile.
            session = self._fleet.sessions.get(current.record.hostname)
            return session is not None and session.take_in()

        if await current.is_silent(self._guard, take_in):
            self._end(current, current.machine.window_closed())

    def _end(self, current: OpenRound, end: RoundEnd | None) -> None:
        """Ends a round, if its machine says so."""
        if end is not None:
            self._open.pop(current.record.command_id)
            self._nursery.start_soon(self._close, current, end)

    async def _close(self, current: OpenRound, end: RoundEnd) -> None:
        record = current.record
        result = RoundResult(record.command_id, end.result, end.reason)
        history = history_of(record, result, self._wall_clock())
        until = current.machine.verdict_until
        entries = self._verdict(record, result, until) if end.has_verdict else []
        if await retry_forever(lambda: self._store.close_round(result, history, entries)):
            self._history.publish(history)
        else:
            # Its host's report was first, though the link went before anybody here heard of that.
            kept = await retry_forever(lambda: self._store.find_round(record.command_id))
            if kept is not None and kept.result is not None:
                result = RoundResult(record.command_id, kept.result, kept.reason)
        current.end(result)
        self._outbox.set()

    def _verdict(
        self, record: RoundRecord, result: RoundResult, until: float | None
    ) -> list[NewEntry]:
        # Of an instance that has moved the VIM has heard enough from its old host: what comes now
        # it would take for the answer of a later step.
        if not self._fleet.has_vim or record.asked_by != VIM:
            return []
        if self._fleet.host_of(record.uuid) != record.hostname:
            return []
        expires_at = record.asked_at + timedelta(seconds=record.window_s)
        if until is not None:
            # For a next process, by the wall clock as it is now: it may have been set meanwhile.
            expires_at = self._wall_clock() + timedelta(seconds=until - trio.current_time())
        body = verdict_body(record, result)
        return [
            NewEntry(OutboxKind.ACTION, record.uuid, body, record.command_id, expires_at, until)
        ]
