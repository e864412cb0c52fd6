"""Brings the agent's votes and notices to their one outcome each, once they are opened.

:mod:`hbtrio.fsm.fleet_round` decides; if two outcomes come at once, the store does.

The verdict of a round that the VIM requested is sent once the reply to the request has been written
completely. There is no verdict if the VIM did not wait for the reply, or if the agent ended before
it was known whether the reply was written: then the VIM does not wait, or its own timer decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial

import trio

from hbtrio.fsm.fleet_round import NOT_HEARD, FleetRound, RoundEnd
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.open_rounds import OpenRound, OpenRounds, history_of
from hbtrio.nursery.agent.verdicts import Verdicts
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord, RoundResult
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import VIM, LinkReport

_log = logging.getLogger("hbtrio.rounds")


class RoundEnds:
    """Ends open rounds.

    Args:
        nursery: runs the windows. When it ends, open rounds stay open: the next process resumes
            them.
        fleet: reads what a host has sent.
        store: keeps all rounds, open and closed.
        guard: the process's on-time guard.
        outbox: woken when a verdict was queued.
        history: publishes rounds that end without a report of their host.
        verdicts: makes those for the VIM.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        store: Store,
        guard: OnTimeGuard,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        verdicts: Verdicts,
        wall_clock: Callable[[], datetime],
    ) -> None:
        #: The open rounds of the fleet.
        self.open = OpenRounds()
        self._nursery = nursery
        self._fleet = fleet
        self._store = store
        self._guard = guard
        self._outbox = outbox
        self._history = history
        self._verdicts = verdicts
        self._wall_clock = wall_clock

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
            current = self.open.add(OpenRound(record, machine))
            self.end(current, machine.agent_restarted(age_s))
            self.hold(current)

    def hold(self, current: OpenRound) -> None:
        """Waits, in a task, for the outcome of a round; at its deadline, a silent guest agrees."""
        self._nursery.start_soon(self._hold_window, current)

    def end(self, current: OpenRound, end: RoundEnd | None) -> None:
        """Ends a round if its machine has returned an end."""
        if end is not None:
            self.open.end(current)
            self._nursery.start_soon(self._close, current, end)

    async def replied(self, command_id: str, uuid: str) -> None:
        """Notes that the reply to the requester was written completely: the verdict may follow.

        Args:
            command_id: the round's.
            uuid: its instance.
        """
        current = self.open.get(command_id)
        if current is None or current.machine.reply_written():
            # Woken early, so that the delivery's query mostly joins the same transaction. Without
            # an outcome the query would find nothing, and would delay the one that finds it.
            self._outbox.set()
        try:
            await self._store.replied(command_id)
        except StoreFault as fault:
            text = "%s: the verdict of %s can't be sent yet: store: %s"
            _log.error(text, uuid, command_id, fault)
            self._nursery.start_soon(self._note_reply, command_id)

    async def _note_reply(self, command_id: str) -> None:
        await retry_forever(lambda: self._store.replied(command_id))
        self._outbox.set()

    def unheard(self, command_id: str) -> None:
        """Notes that the requester did not wait for the reply: there will be no verdict."""
        current = self.open.get(command_id)
        end = None if current is None else current.machine.reply_unheard()
        if current is not None:
            self.open.end(current)
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
        for current in self.open:
            record = current.record
            if record.hostname == hostname and record.boot_id not in ("", boot_id):
                self.end(current, current.machine.host_restarted())

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
        current = self.open.get(report.command_id)
        record = current.record if current else await self._store.find_round(report.command_id)
        if record is None or report.result is None or record.hostname != hostname:
            return None, None, []
        self.heard(hostname, report)
        # Also of one that has ended here and could not be stored yet: the wall clock may be set.
        opened = current or ending
        until = None if opened is None else opened.machine.ends_at
        result = RoundResult(report.command_id, report.result, report.reason)
        return record, result, self._verdicts.entries(record, result, until)

    def heard(self, hostname: str, report: LinkReport) -> None:
        """Notes the outcome that a host reports of a round, whether it can be stored or not."""
        current = self.open.get(report.command_id)
        if (
            current is not None
            and current.record.hostname == hostname
            and report.result is not None
        ):
            current.machine.outcome_reported(report.result, report.reason)

    def ending(self, command_id: str) -> OpenRound | None:
        """Returns the round of this command if it has an outcome that is not stored yet."""
        return self.open.ending(command_id)

    def awaits_reply(self, command_id: str) -> bool:
        """Returns whether a round is open and its verdict has to wait for :meth:`replied`."""
        current = self.open.get(command_id)
        return current is not None and current.machine.awaits_reply

    def settled(self, result: RoundResult) -> None:
        """Ends a round whose reported outcome is in the store."""
        current = self.open.pop(result.command_id)
        if current is not None:
            current.machine.outcome_stored()
            current.end(result)

    # ----------------------------------------------------------------------------------------------

    async def _hold_window(self, current: OpenRound) -> None:
        take_in = partial(self._fleet.take_in, current.record.hostname)
        if await current.is_silent(self._guard, take_in):
            self.end(current, current.machine.window_closed())

    async def _close(self, current: OpenRound, end: RoundEnd) -> None:
        record = current.record
        result = RoundResult(record.command_id, end.result, end.reason)
        history = history_of(record, result, self._wall_clock())
        until = current.machine.ends_at
        entries = self._verdicts.entries(record, result, until) if end.has_verdict else []
        if await retry_forever(lambda: self._store.close_round(result, history, entries)):
            self._history.publish(history)
        else:
            # The host's report was stored first, though its link ended before the result was seen.
            kept = await retry_forever(lambda: self._store.find_round(record.command_id))
            if kept is not None and kept.result is not None:
                result = RoundResult(record.command_id, kept.result, kept.reason)
        self.open.ended(current)
        current.end(result)
        self._outbox.set()
